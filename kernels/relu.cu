// Rectified linear unit: y = max(0, x), NaN stays NaN;   gx = y > 0 ? gy : 0.
//
//     block = `span` numbers in a row, whatever the array's shape; threads stride over them.
//
// Bytes per element: forward reads 4, writes 4; backward reads 8, writes 4.
#include "prelude.cuh"

extern "C" __global__ void relu_forward(const real *__restrict__ x /* size */,
                                        real *__restrict__ y /* size */, i64 size, int span) {
  i64 first = (i64)blockIdx.x * span;
  int count = size - first < span ? (int)(size - first) : span;
  UNROLL for (int i = threadIdx.x; i < count; i += blockDim.x) {
    real v = x[first + i];
    y[first + i] = v < 0 ? 0 : v;
  }
}

extern "C" __global__ void relu_backward(const real *__restrict__ gy /* size */,
                                         const real *__restrict__ y /* size */,
                                         real *__restrict__ gx /* size */, i64 size, int span) {
  i64 first = (i64)blockIdx.x * span;
  int count = size - first < span ? (int)(size - first) : span;
  UNROLL for (int i = threadIdx.x; i < count; i += blockDim.x) {
    // Read in any case: a choice between values vectorises, a conditional read does not.
    real g = gy[first + i];
    gx[first + i] = y[first + i] > 0 ? g : 0;
  }
}
