// Pictures to network input: out = (mirror(crop(picture)) - mean + shift) * scale; minigrad/data/preparation.py says where the terms come from.
//
//     block = one row (n, h) of the output; threads stride over its pixels
//
// pictures (count, SIDE, SIDE, 3) bytes; draws (count, 3): top, left, mirror; mean (size, size, 3); shift (count, 3) colours.
// Bytes an element: reads 5 (mean from cache), writes 4.
#include "prelude.cuh"

extern "C" __global__ void prepare_images(const u8 *__restrict__ pictures,
                                          const int *__restrict__ draws,
                                          const real *__restrict__ mean,
                                          const real *__restrict__ shift, real *__restrict__ out,
                                          int side, int size, real scale) {
  int n = blockIdx.x / size, h = blockIdx.x % size;
  int top = draws[3 * n], left = draws[3 * n + 1], mirror = draws[3 * n + 2];
  const u8 *in = pictures + (((i64)n * side + top + h) * side + left) * 3;
  const real *average = mean + (i64)h * size * 3;
  real *row = out + (i64)blockIdx.x * size * 3;
  for (int w = threadIdx.x; w < size; w += blockDim.x) {
    int from = mirror ? size - 1 - w : w;
    for (int c = 0; c < 3; ++c)
      row[3 * w + c] = ((in[3 * from + c] - average[3 * w + c]) + shift[3 * n + c]) * scale;
  }
}
