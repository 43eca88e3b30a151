// Average-pooling, channels last: y = the sum of the taps inside the image / their number.
//
//     forward   block = one output row (n, oh);  a thread = CHANNELS channels of one pixel of y,
//               from the taps inside the image
//     backward  block = one input row (n, h);  a thread = CHANNELS channels of one pixel of gx,
//               from the windows that cover it, the last window first; no atomics
//
// Bytes: forward reads 4 per input element and writes 4 per output element; backward the reverse.
#include "prelude.cuh"

// Taps of window o along one axis that lie inside 0 .. size - 1.
__device__ inline int inside(int o, int size, int kernel, int stride, int padding) {
  int first = o * stride - padding;
  return least(size, first + kernel) - most(0, first);
}

extern "C" __global__ void
avg_pool_forward(const real *__restrict__ x /* up(blocks, OH) * H * W * C */,
                 real *__restrict__ y /* blocks * OW * C */, int H, int W, int C, int KH, int KW,
                 int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, oh = blockIdx.x % OH, top = oh * SH - PH,
      pieces = (C + CHANNELS - 1) / CHANNELS;
  for (int e = threadIdx.x; e < OW * pieces; e += blockDim.x) {
    int ow = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c),
        left = ow * SW - PW;
    real total[CHANNELS];
    for (int i = 0; i < channels; ++i) total[i] = 0;
    for (int kh = most(0, -top); kh < least(KH, H - top); ++kh) {
      for (int kw = most(0, -left); kw < least(KW, W - left); ++kw) {
        const real *in = x + (((i64)n * H + top + kh) * W + left + kw) * C + c;
        for (int i = 0; i < channels; ++i) total[i] += in[i];
      }
    }
    real count = inside(oh, H, KH, SH, PH) * inside(ow, W, KW, SW, PW);
    real *out = y + ((i64)blockIdx.x * OW + ow) * C + c;
    for (int i = 0; i < channels; ++i) out[i] = total[i] / count;
  }
}

extern "C" __global__ void
avg_pool_backward(const real *__restrict__ gy /* up(blocks, H) * OH * OW * C */,
                  real *__restrict__ gx /* blocks * W * C */, int H, int W, int C, int KH, int KW,
                  int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H, pieces = (C + CHANNELS - 1) / CHANNELS;
  int oh0 = first_window(h, KH, SH, PH), oh1 = last_window(h, SH, PH, OH);
  for (int e = threadIdx.x; e < W * pieces; e += blockDim.x) {
    int w = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c);
    int ow0 = first_window(w, KW, SW, PW), ow1 = last_window(w, SW, PW, OW);
    real total[CHANNELS];
    for (int i = 0; i < channels; ++i) total[i] = 0;
    for (int oh = oh1; oh >= oh0; --oh) {
      for (int ow = ow1; ow >= ow0; --ow) {
        real count = inside(oh, H, KH, SH, PH) * inside(ow, W, KW, SW, PW);
        const real *in = gy + (((i64)n * OH + oh) * OW + ow) * C + c;
        for (int i = 0; i < channels; ++i) total[i] += in[i] / count;
      }
    }
    real *out = gx + ((i64)blockIdx.x * W + w) * C + c;
    for (int i = 0; i < channels; ++i) out[i] = total[i];
  }
}
