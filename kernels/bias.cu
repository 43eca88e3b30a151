// The bias of a convolution or a dense layer, alone or with the ReLU that follows, and its
// gradient; y is (rows, O).
//
//     y = y + b,   or  y = max(0, y + b), NaN stays NaN          gb = sum of the rows of gy
//
//     block = `span` rows;    row 0   o o o o
//                       row 1   o o o o     each thread takes its own columns, from top to bottom
//                             ...
//
// Bytes per element: add_bias reads 4 and writes 4, with or without ReLU; sum_rows reads 4.
#include "prelude.cuh"

extern "C" __global__ void add_bias(real *__restrict__ y /* rows * O */,
                                    const real *__restrict__ b /* O */, i64 rows, int O, int span,
                                    int relu) {
  i64 first = (i64)blockIdx.x * span, last = first + span < rows ? first + span : rows;
  for (i64 row = first; row < last; ++row) {
    for (int o = threadIdx.x; o < O; o += blockDim.x) {
      real v = y[row * O + o] + b[o];
      y[row * O + o] = relu && v < 0 ? 0 : v;
    }
  }
}

// out[block, o] = sum of g[row, o] over the block's rows: one level of gb.
extern "C" __global__ void sum_rows(const real *__restrict__ g /* rows * O */,
                                    real *__restrict__ out /* blocks * O */, i64 rows, int O,
                                    int span) {
  i64 first = (i64)blockIdx.x * span, last = first + span < rows ? first + span : rows;
  for (int o = threadIdx.x; o < O; o += blockDim.x) {
    real total = 0;
    UNROLL for (i64 row = first; row < last; ++row) total += g[row * O + o];
    out[(i64)blockIdx.x * O + o] = total;
  }
}
