// Max- and average-pooling, channels last.
//
//     max    y = largest of the window's taps; the first wins a tie, NaN wins over all; `winner` is its tap number, one byte
//     avg    y = sum of the taps inside the image / their number
//
//     forward   block = one output row (n, oh): window after window, threads over the channels
//     backward  block = one input row (n, h): each pixel gathers from the windows that cover it; no atomics
//
// Bytes: forward reads 4 an input element and writes 5 (avg: 4) an output element; backward the reverse.
#include "prelude.cuh"

extern "C" __global__ void max_pool_forward(const real *__restrict__ x, real *__restrict__ y, u8 *__restrict__ winner, int H, int W,
                                            int C, int KH, int KW, int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, oh = blockIdx.x % OH;
  for (int ow = 0; ow < OW; ++ow) {
    i64 at = ((i64)blockIdx.x * OW + ow) * C;
    real *__restrict__ best = y + at;
    u8 *__restrict__ tap = winner + at;
    bool first = true;
    for (int kh = 0; kh < KH; ++kh) {
      int h = oh * SH - PH + kh;
      if (h < 0 || h >= H) continue;
      for (int kw = 0; kw < KW; ++kw) {
        int w = ow * SW - PW + kw;
        if (w < 0 || w >= W) continue;
        const real *in = x + (((i64)n * H + h) * W + w) * C;
        u8 here = (u8)(kh * KW + kw);
        if (first) {
          for (int c = threadIdx.x; c < C; c += blockDim.x) best[c] = in[c], tap[c] = here;
        } else {
          for (int c = threadIdx.x; c < C; c += blockDim.x) {
            real v = in[c], b = best[c];
            bool better = (v > b) | ((v != v) & (b == b));
            best[c] = better ? v : b;
            tap[c] = better ? here : tap[c];
          }
        }
        first = false;
      }
    }
  }
}

extern "C" __global__ void max_pool_backward(const real *__restrict__ gy, const u8 *__restrict__ winner, real *__restrict__ gx, int H,
                                             int W, int C, int KH, int KW, int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H;
  for (int w = 0; w < W; ++w) {
    real *__restrict__ out = gx + (((i64)n * H + h) * W + w) * C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) out[c] = 0;
    for (int kh = 0; kh < KH; ++kh) {
      int down = h + PH - kh, oh = down / SH;
      if (down < 0 || down % SH || oh >= OH) continue;
      for (int kw = 0; kw < KW; ++kw) {
        int along = w + PW - kw, ow = along / SW;
        if (along < 0 || along % SW || ow >= OW) continue;
        i64 at = (((i64)n * OH + oh) * OW + ow) * C;
        u8 here = (u8)(kh * KW + kw);
        for (int c = threadIdx.x; c < C; c += blockDim.x) {
          real g = gy[at + c];  // read in any case: a choice between values vectorises, a conditional read does not
          out[c] += winner[at + c] == here ? g : 0;
        }
      }
    }
  }
}

// Taps of window o along one axis that lie inside 0 .. size - 1.
__device__ inline int inside(int o, int size, int kernel, int stride, int padding) {
  int first = o * stride - padding;
  return least(size, first + kernel) - most(0, first);
}

extern "C" __global__ void avg_pool_forward(const real *__restrict__ x, real *__restrict__ y, int H, int W, int C, int KH, int KW,
                                            int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, oh = blockIdx.x % OH;
  for (int ow = 0; ow < OW; ++ow) {
    real *__restrict__ total = y + ((i64)blockIdx.x * OW + ow) * C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) total[c] = 0;
    for (int kh = 0; kh < KH; ++kh) {
      int h = oh * SH - PH + kh;
      if (h < 0 || h >= H) continue;
      for (int kw = 0; kw < KW; ++kw) {
        int w = ow * SW - PW + kw;
        if (w < 0 || w >= W) continue;
        const real *in = x + (((i64)n * H + h) * W + w) * C;
        for (int c = threadIdx.x; c < C; c += blockDim.x) total[c] += in[c];
      }
    }
    real count = inside(oh, H, KH, SH, PH) * inside(ow, W, KW, SW, PW);
    for (int c = threadIdx.x; c < C; c += blockDim.x) total[c] /= count;
  }
}

extern "C" __global__ void avg_pool_backward(const real *__restrict__ gy, real *__restrict__ gx, int H, int W, int C, int KH, int KW,
                                             int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H;
  for (int w = 0; w < W; ++w) {
    real *__restrict__ out = gx + (((i64)n * H + h) * W + w) * C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) out[c] = 0;
    for (int kh = 0; kh < KH; ++kh) {
      int down = h + PH - kh, oh = down / SH;
      if (down < 0 || down % SH || oh >= OH) continue;
      for (int kw = 0; kw < KW; ++kw) {
        int along = w + PW - kw, ow = along / SW;
        if (along < 0 || along % SW || ow >= OW) continue;
        real count = inside(oh, H, KH, SH, PH) * inside(ow, W, KW, SW, PW);
        const real *in = gy + (((i64)n * OH + oh) * OW + ow) * C;
        for (int c = threadIdx.x; c < C; c += blockDim.x) out[c] += in[c] / count;
      }
    }
  }
}
