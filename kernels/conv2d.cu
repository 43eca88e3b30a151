// im2col and its transpose; channels last, one group of channels [c0, c0 + CG) at a time.
//
//     cols[(n, oh, ow), (kh, kw, c)] = x[n, oh SH - PH + kh, ow SW - PW + kw, c0 + c]
//                                      0 outside the image
//     gx[n, h, w, c0 + c] = sum of cols over the windows and taps copied from (n, h, w, c0 + c)
//
//     im2col  block = one output row (n, oh);  a thread = one element (kh, kw, c) of a window, for
//             each window of the row in turn
//     x     ..[c c c c c c c c c]..  ->  cols  [kh=0: c c c c c c c c c][kh=1: ...]
//             neighbours in cols are neighbours in x
//     col2im  block = one input row (n, h);  a thread = one element (w, c) of it, summed over the
//             windows that cover it, in a fixed order; no atomics
//
// Bytes moved per element of cols: im2col reads 4 and writes 4; col2im reads 4 (and writes 4 for
// each element of gx). A CPU convolves without columns (conv2d_direct.cpp), so the loops here are
// in the order that suits a GPU with its many threads.
#include "prelude.cuh"

extern "C" __global__ void im2col(const real *__restrict__ x /* up(blocks, OH) * H * W * C */,
                                  real *__restrict__ cols /* blocks * OW * KH * KW * CG */, int H,
                                  int W, int C, int c0, int CG, int KH, int KW, int SH, int SW,
                                  int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / OH, oh = blockIdx.x % OH, K = KH * KW * CG;
  for (int e = threadIdx.x; e < K; e += blockDim.x) {
    int kh = e / (KW * CG), kw = e / CG % KW, h = oh * SH - PH + kh;
    bool row = 0 <= h && h < H;  // inside the image
    const real *in = x + ((i64)n * H + h) * W * C + c0 + e % CG;
    real *out = cols + (i64)blockIdx.x * OW * K + e;
    for (int ow = 0; ow < OW; ++ow) {
      int w = ow * SW - PW + kw;
      out[(i64)ow * K] = row && 0 <= w && w < W ? in[(i64)w * C] : (real)0;
    }
  }
}

extern "C" __global__ void
col2im(const real *__restrict__ cols /* up(blocks, H) * OH * OW * KH * KW * CG */,
       real *__restrict__ gx /* blocks * W * C */, int H, int W, int C, int c0, int CG, int KH,
       int KW, int SH, int SW, int PH, int PW, int OH, int OW) {
  int n = blockIdx.x / H, h = blockIdx.x % H;
  int oh0 = first_window(h, KH, SH, PH), oh1 = last_window(h, SH, PH, OH);
  for (int e = threadIdx.x; e < W * CG; e += blockDim.x) {
    int w = e / CG, c = e % CG;
    int ow0 = first_window(w, KW, SW, PW), ow1 = last_window(w, SW, PW, OW);
    real total = 0;
    for (int oh = oh0; oh <= oh1; ++oh) {
      int kh = h + PH - oh * SH,
          kw = w + PW - ow0 * SW;  // the tap of window ow0; in the next window it is kw - SW
      const real *in = cols + ((((i64)n * OH + oh) * OW + ow0) * KH * KW + kh * KW + kw) * CG + c;
      for (int i = 0; i <= ow1 - ow0; ++i) total += in[i * (i64)(KH * KW - SW) * CG];
    }
    gx[(((i64)n * H + h) * W + w) * C + c0 + c] = total;
  }
}
