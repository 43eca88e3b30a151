// im2col and its transpose; channels last, one group of channels [c0, c0 + CG) at a time.
//
//     cols[(n, oh, ow), (kh, kw, c)] = x[n, oh SH - PH + kh, ow SW - PW + kw, c0 + c]        0 outside the image
//     gx[n, h, w, c0 + c] = sum of cols over the windows and taps that were copied from (n, h, w, c0 + c)
//
//     block = one output row (n, oh)      for each window and window row kh, a run of KW * CG numbers is copied:
//     x     ..[c c c c c c c c c]..  ->  cols  [kh=0: c c c c c c c c c][kh=1: ...]
//
// Bytes moved an element of cols: im2col reads 4 and writes 4, col2im reads 4 (and writes 4 for each element of gx).
#include "prelude.cuh"

extern "C" __global__ void im2col(const real *__restrict__ x, real *__restrict__ cols, int H, int W, int C, int c0, int CG,
                                  int KH, int KW, int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, oh = blockIdx.x % OH;
  real *out = cols + (i64)blockIdx.x * OW * KH * KW * CG;
  // All channels: the KW pixels of a window row lie side by side and are one run. Some channels: KW runs of CG.
  int runs = CG == C ? 1 : KW, pixels = KW / runs, length = pixels * CG;
  for (int ow = 0; ow < OW; ++ow) {
    for (int kh = 0; kh < KH; ++kh) {
      int h = oh * SH - PH + kh;
      for (int r = 0; r < runs; ++r, out += length) {
        int w = ow * SW - PW + r;  // of the run's first pixel
        // Elements [lo, hi) of the run are inside the image.
        int lo = least(length, most(0, -w) * CG), hi = most(lo, least(pixels, W - w) * CG);
        if (h < 0 || h >= H) lo = hi = length;
        const real *in = x + (((i64)n * H + h) * W + w) * C + c0;
        for (int e = threadIdx.x; e < lo; e += blockDim.x) out[e] = 0;
        for (int e = lo + threadIdx.x; e < hi; e += blockDim.x) out[e] = in[e];
        for (int e = hi + threadIdx.x; e < length; e += blockDim.x) out[e] = 0;
      }
    }
  }
}

// block = one input row (n, h): each pixel gathers from the windows that cover it, in a fixed order; no atomics.
extern "C" __global__ void col2im(const real *__restrict__ cols, real *__restrict__ gx, int H, int W, int C, int c0, int CG,
                                  int KH, int KW, int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H;
  for (int w = 0; w < W; ++w) {
    real *__restrict__ out = gx + (((i64)n * H + h) * W + w) * C + c0;
    for (int c = threadIdx.x; c < CG; c += blockDim.x) out[c] = 0;
    for (int kh = 0; kh < KH; ++kh) {
      int down = h + PH - kh, oh = down / SH;
      if (down < 0 || down % SH || oh >= OH) continue;
      for (int kw = 0; kw < KW; ++kw) {
        int along = w + PW - kw, ow = along / SW;
        if (along < 0 || along % SW || ow >= OW) continue;
        const real *in = cols + ((((i64)n * OH + oh) * OW + ow) * KH * KW + kh * KW + kw) * CG;
        for (int c = threadIdx.x; c < CG; c += blockDim.x) out[c] += in[c];
      }
    }
  }
}
