// Stochastic gradient descent with momentum and weight decay, one pass over the parameters.
//
//     paper (Krizhevsky et al. 2012, section 5):   v <- m v - lr (g + d w),   w <- w + v
//     torch:                                       v <- m v + (g + d w),      w <- w - lr v
//
//     block = `span` numbers in a row; threads stride over them.
//     Bytes per element: reads 12, writes 8.
#include "prelude.cuh"

extern "C" __global__ void sgd_update(real *__restrict__ w /* size */,
                                      real *__restrict__ v /* size */,
                                      const real *__restrict__ g /* size */, i64 size, int span,
                                      real lr, real momentum, real decay, int paper) {
  i64 first = (i64)blockIdx.x * span;
  int count = size - first < span ? (int)(size - first) : span;
  real into = paper ? -lr : 1, step = paper ? 1 : -lr;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    i64 at = first + i;
    real velocity = momentum * v[at] + into * (g[at] + decay * w[at]);
    v[at] = velocity;
    w[at] += step * velocity;
  }
}
