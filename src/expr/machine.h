// The expression machine: the producer that runs a program (program.h) over all pairs.
#ifndef PD_EXPR_MACHINE_H
#define PD_EXPR_MACHINE_H

#include "base/status.h"
#include "expr/program.h"
#include "pairwise/matrix.h"
#include "pairwise/tile.h"
#include "simd/simd.h"

// More features are refused.
#define PD_MACHINE_MAX_FEATURES PD_PROGRAM_MAX_LENGTH

// Makes the producer of program(x row, y row) for all pairs and stores it in *out, which
// owns `program` from then on; x and y are borrowed: their data must outlive it.  It
// computes in double (a program that imitates float rounds after every operation), and
// has doubts if the program has.
//
// PD_EINVAL if x and y differ in features or have more than PD_MACHINE_MAX_FEATURES;
// PD_ENOMEM.  On an error `program` stays the caller's.
pd_status pd_machine_create(pd_program *program,
                            const pd_matrix *x,
                            const pd_matrix *y,
                            const pd_simd *simd,
                            pd_producer **out);

// Accepts NULL.  Can't fail.
void pd_machine_destroy(pd_producer *producer);

#endif
