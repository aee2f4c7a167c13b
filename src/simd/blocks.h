#ifndef PD_SIMD_BLOCKS_H
#define PD_SIMD_BLOCKS_H
typedef struct pd_block_ops {
    int unused;
} pd_block_ops;
#endif
