// The bias of a convolution or a dense layer, alone or with the ReLU that follows, and its gradient; y is (rows, O).
//
//     y = y + b,   or  y = max(0, y + b), NaN stays NaN          gb = sum of the rows of gy
//
//     add_bias: block = one row;   threads stride over its O numbers
//     sum_rows: block = `span` rows;   row 0  c c c c
//                                      row 1  c c c c     each thread adds up columns of its own, from top to bottom
//                                      ...
//
// Bytes an element: add_bias reads 4 and writes 4, with or without ReLU; sum_rows reads 4.
#include "prelude.cuh"

extern "C" __global__ void add_bias(real *__restrict__ y, const real *__restrict__ b, int O, int relu) {
  real *row = y + (i64)blockIdx.x * O;
  for (int o = threadIdx.x; o < O; o += blockDim.x) {
    real v = row[o] + b[o];
    row[o] = relu && v < 0 ? 0 : v;
  }
}

// out[block, o] = sum of g[row, o] over the block's rows: one level of gb.
extern "C" __global__ void sum_rows(const real *__restrict__ g, real *__restrict__ out, i64 rows, int O, int span) {
  i64 first = (i64)blockIdx.x * span, last = first + span < rows ? first + span : rows;
  real *__restrict__ total = out + (i64)blockIdx.x * O;
  for (int o = threadIdx.x; o < O; o += blockDim.x) total[o] = 0;
  for (i64 row = first; row < last; ++row) {
    for (int o = threadIdx.x; o < O; o += blockDim.x) total[o] += g[row * O + o];
  }
}
