// Pictures to network input: out = (mirror(crop(picture)) - mean + shift) * scale;
// minigrad/data/preparation.py says where the terms come from.
//
//     block = one row (n, h) of the output; threads stride over its pixels
//
// pictures (count, SIDE, SIDE, C) bytes; draws (count, 3): top, left, mirror; mean (size, size, C);
// shift (count, C) colours; scale (C,). The loop over three channels is unrolled.
// Bytes per element: reads 5 (mean from cache), writes 4.
#include "prelude.cuh"

template <int fixed>
__device__ inline void prepare_row(const u8 *__restrict__ in, const real *__restrict__ average,
                                   const real *__restrict__ shift, real *__restrict__ row, int size,
                                   int channels, int mirror, const real *__restrict__ scale) {
  const int C = fixed ? fixed : channels;
  for (int w = threadIdx.x; w < size; w += blockDim.x) {
    int from = mirror ? size - 1 - w : w;
    for (int c = 0; c < C; ++c)
      row[C * w + c] = ((in[C * from + c] - average[C * w + c]) + shift[c]) * scale[c];
  }
}

extern "C" __global__ void
prepare_images(const u8 *__restrict__ pictures /* up(blocks, size) * side * side * channels */,
               const int *__restrict__ draws /* up(blocks, size) * 3 */,
               const real *__restrict__ mean /* size * size * channels */,
               const real *__restrict__ shift /* up(blocks, size) * channels */,
               const real *__restrict__ scale /* channels */,
               real *__restrict__ out /* blocks * size * channels */, int side, int size,
               int channels) {
  int n = blockIdx.x / size, h = blockIdx.x % size, C = channels;
  int top = draws[3 * n], left = draws[3 * n + 1], mirror = draws[3 * n + 2];
  const u8 *in = pictures + (((i64)n * side + top + h) * side + left) * C;
  const real *average = mean + (i64)h * size * C;
  real *row = out + (i64)blockIdx.x * size * C;
  if (C == 3) prepare_row<3>(in, average, shift + (i64)n * C, row, size, C, mirror, scale);
  else prepare_row<0>(in, average, shift + (i64)n * C, row, size, C, mirror, scale);
}
