// Producers of the built-in metrics.
//
// A metric is a way to add up terms over the features (a cell), and what is done to the
// sum in the end (a finish); both are loops of the simd layer.  A new metric of this kind
// is one row in metric.c.
#ifndef PD_PAIRWISE_METRIC_H
#define PD_PAIRWISE_METRIC_H

#include "base/status.h"
#include "pairwise/matrix.h"
#include "pairwise/tile.h"
#include "simd/simd.h"

typedef struct pd_metric pd_metric;  // a row of the table; constant

// The metric called `name`, or NULL.  Can't fail otherwise.
const pd_metric *pd_metric_named(const char *name);

// Makes the producer of metric(x row, y row) for all pairs and stores it in *out; the
// caller owns it.  x and y are borrowed: their data must outlive the producer.
// `parameter` is the metric's one number (gamma of rbf), ignored where there is none.
//
// Differences are taken directly, so there is no cancellation; a NaN makes its pairs NaN;
// no features give a sum of 0.  Sums of float are flushed into double every
// PD_METRIC_FLUSH terms and rounded once in the end.
//
// PD_EINVAL if x and y differ in features or type; PD_ENOMEM.
pd_status pd_metric_producer_create(const pd_metric *metric,
                                    const pd_matrix *x,
                                    const pd_matrix *y,
                                    double parameter,
                                    const pd_simd *simd,
                                    pd_producer **out);

#define PD_METRIC_FLUSH 32

// Accepts NULL.  Can't fail.
void pd_metric_producer_destroy(pd_producer *producer);

#endif
