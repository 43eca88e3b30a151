// Max-pooling, channels last: y = the largest of the window's taps. The first wins a tie, and NaN
// wins against all. `winner` is the number of the tap that won, one byte.
//
//     forward   block = one output row (n, oh);  a thread = CHANNELS channels of one pixel of y,
//               from the taps inside the image
//     backward  block = one input row (n, h);  a thread = CHANNELS channels of one pixel of gx,
//               from the windows that cover it, beginning with the last window, of which the pixel
//               is the first tap; no atomics
//
// Bytes: forward reads 4 per input element and writes 5 per output element; backward the reverse.
//
// A loop over channels handles 32 or 64 at a time if it counts taps in bytes, and the rest one by
// one; if it counts them in ints, 8 or 16. So `Tap` is int unless C is a multiple of 32.
#include "prelude.cuh"

template <typename Tap>
__device__ inline void largest(const real *__restrict__ x, real *__restrict__ y,
                               u8 *__restrict__ winner, int H, int W, int C, int KH, int KW, int SH,
                               int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, top = blockIdx.x % OH * SH - PH, pieces = (C + CHANNELS - 1) / CHANNELS;
  for (int e = threadIdx.x; e < OW * pieces; e += blockDim.x) {
    int ow = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c),
        left = ow * SW - PW;
    real best[CHANNELS];
    Tap tap[CHANNELS];
    bool first = true;
    for (int kh = most(0, -top); kh < least(KH, H - top); ++kh) {
      for (int kw = most(0, -left); kw < least(KW, W - left); ++kw) {
        const real *in = x + (((i64)n * H + top + kh) * W + left + kw) * C + c;
        Tap here = (Tap)(kh * KW + kw);
        if (first) {
          for (int i = 0; i < channels; ++i) best[i] = in[i], tap[i] = here;
        } else {
          for (int i = 0; i < channels; ++i) {
            real v = in[i], b = best[i];
            bool better = (v > b) | ((v != v) & (b == b));
            best[i] = better ? v : b;
            tap[i] = better ? here : tap[i];
          }
        }
        first = false;
      }
    }
    i64 at = ((i64)blockIdx.x * OW + ow) * C + c;
    for (int i = 0; i < channels; ++i) y[at + i] = best[i];
    for (int i = 0; i < channels; ++i) winner[at + i] = (u8)tap[i];
  }
}

extern "C" __global__ void
max_pool_forward(const real *__restrict__ x /* up(blocks, OH) * H * W * C */,
                 real *__restrict__ y /* blocks * OW * C */,
                 u8 *__restrict__ winner /* blocks * OW * C */, int H, int W, int C, int KH, int KW,
                 int SH, int SW, int PH, int PW, int OH, int OW) {
  if (C % 32) {
    largest<int>(x, y, winner, H, W, C, KH, KW, SH, SW, PH, PW, OH, OW);
  } else {
    largest<u8>(x, y, winner, H, W, C, KH, KW, SH, SW, PH, PW, OH, OW);
  }
}

template <typename Tap>
__device__ inline void to_winners(const real *__restrict__ gy, const u8 *__restrict__ winner,
                                  real *__restrict__ gx, int H, int W, int C, int KH, int KW,
                                  int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H, pieces = (C + CHANNELS - 1) / CHANNELS;
  int oh0 = first_window(h, KH, SH, PH), oh1 = last_window(h, SH, PH, OH);
  for (int e = threadIdx.x; e < W * pieces; e += blockDim.x) {
    int w = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c);
    int ow0 = first_window(w, KW, SW, PW), ow1 = last_window(w, SW, PW, OW);
    real total[CHANNELS];
    Tap won[CHANNELS];
    for (int i = 0; i < channels; ++i) total[i] = 0;
    for (int oh = oh1; oh >= oh0; --oh) {
      for (int ow = ow1; ow >= ow0; --ow) {
        i64 at = (((i64)n * OH + oh) * OW + ow) * C + c;
        Tap here = (Tap)((h + PH - oh * SH) * KW + w + PW - ow * SW);
        for (int i = 0; i < channels; ++i) won[i] = winner[at + i];
        for (int i = 0; i < channels; ++i) {
          // Read in any case: a choice between values vectorises, a conditional read does not.
          real g = gy[at + i];
          total[i] += won[i] == here ? g : 0;
        }
      }
    }
    real *out = gx + ((i64)blockIdx.x * W + w) * C + c;
    for (int i = 0; i < channels; ++i) out[i] = total[i];
  }
}

extern "C" __global__ void
max_pool_backward(const real *__restrict__ gy /* up(blocks, H) * OH * OW * C */,
                  const u8 *__restrict__ winner /* up(blocks, H) * OH * OW * C */,
                  real *__restrict__ gx /* blocks * W * C */, int H, int W, int C, int KH, int KW,
                  int SH, int SW, int PH, int PW, int OH, int OW) {
  if (C % 32) {
    to_winners<int>(gy, winner, gx, H, W, C, KH, KW, SH, SW, PH, PW, OH, OW);
  } else {
    to_winners<u8>(gy, winner, gx, H, W, C, KH, KW, SH, SW, PH, PW, OH, OW);
  }
}
