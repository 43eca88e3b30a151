// Convolution on a CPU without columns; channels last. The counterpart for GPUs is conv2d.cu:
// im2col and a matrix product.
//
//     y[n, oh, ow, o] = b[o] + sum over kh, kw, c of
//                       x[n, oh SH - PH + kh, ow SW - PW + kw, c] w[kh, kw, c, o]
//
// The rule of the other files does not work here, because a processor multiplies and adds at its
// full rate only while the sums stay in vector registers, one tile at a time (conv2d_tile.h). Each
// row of a window, KW pixels of CG channels, is one contiguous run in memory, so a tile can read it
// there, and no window has to be copied into a row of columns first.
//
//     filters    in panels of 32 output channels, [group][panel][1 + K][32]: row 0 is the bias,
//                then come the K = KH KW CG numbers of a window in order. Columns past the last
//                output channel are 0. The filters' gradient has the same form.
//     padded     a copy of the input rows that a band of output rows sees: one group's channels,
//                with zeros outside the image. It is in the block's shared memory, which on a CPU
//                is the second-level cache.
#include "prelude.cuh"

#include <cstring>
#include <utility>

constexpr int PANEL = 32;

// The sizes of a convolution, and what follows from them.
struct Convolution {
  int H, W, C, KH, KW, SH, SW, PH, PW, OH, OW, O, groups;

  int CG() const { return C / groups; }
  int OG() const { return O / groups; }
  int panels() const { return (OG() + PANEL - 1) / PANEL; }
  int width(int panel) const { return least(PANEL, OG() - panel * PANEL); }
  i64 panel_size() const { return (1 + i64(KH) * KW * CG()) * PANEL; }
  i64 padded_row() const { return (i64(OW - 1) * SW + KW) * CG(); }
  i64 padded_size(int rows) const {
    return (((rows - 1) * SH + KH) * padded_row() + 15) / 16 * 16;
  }  // whole cache lines

  // Copy what `rows` output rows, from oh on, see of image n, group g. A negative padding leaves
  // out pixels at the border.
  void copy_padded(const real *x, real *padded, i64 n, int g, int oh, int rows) const {
    int columns = (OW - 1) * SW + KW, lo = least(columns, most(0, PW)),
        hi = most(lo, least(columns, W + PW));  // inside: [lo, hi)
    // With all channels, the pixels of a row are contiguous and form one run; with some of the
    // channels, there is one run per pixel.
    int runs = groups == 1 ? least(1, hi - lo) : hi - lo,
        length = groups == 1 ? (hi - lo) * C : CG();
    for (int i = threadIdx.x; i < (rows - 1) * SH + KH; i += blockDim.x) {
      int h = oh * SH - PH + i;
      real *row = padded + i * padded_row();
      if (h < 0 || h >= H) {
        std::memset(row, 0, padded_row() * sizeof(real));
        continue;
      }
      const real *in = x + ((n * H + h) * W + lo - PW) * C + g * CG();
      std::memset(row, 0, lo * CG() * sizeof(real));
      for (int r = 0; r < runs; ++r)
        std::memcpy(row + (lo + r) * CG(), in + i64(r) * C, length * sizeof(real));
      std::memset(row + hi * CG(), 0, (columns - hi) * CG() * sizeof(real));
    }
  }
};

// The order in which a tile reads a and b: three nested loops of n[] turns. At each turn, a moves
// by step[]; in the innermost loop, b moves by a row. For a window there are {1, KH, KW CG} turns
// with steps {0, a row of the image, 1}.
struct Walk {
  int n[3];
  i64 step[3];
};

// Tiles of up to `rows` rows and the first `width` columns of a panel, for one instruction set.
struct Tiles {
  int rows;
  void (*run)(int rows, int width, real *out, i64 out_row, const real *start, i64 start_row,
              const real *a, i64 a_row, const real *b, const Walk &walk);
};

// 32 vector registers hold 14 x 2 sums beside two vectors of b and a number of a; 16 hold 6 x 2.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(NO_CLONES)
namespace avx512 {
#define TARGET __attribute__((target("arch=skylake-avx512")))
#define BYTES 64
#define ROWS 14
#include "conv2d_tile.h"
}  // namespace avx512
namespace avx2 {
#define TARGET __attribute__((target("arch=haswell")))
#define BYTES 32
#define ROWS 6
#include "conv2d_tile.h"
}  // namespace avx2
#endif
namespace baseline {
#define TARGET
#define BYTES 16
#ifdef __aarch64__
#define ROWS 14
#else
#define ROWS 6
#endif
#include "conv2d_tile.h"
}  // namespace baseline

static Tiles best_tiles() {
#if defined(TILES)  // tests only
  return TILES::tiles;
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(NO_CLONES)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return avx512::tiles;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::tiles;
#endif
  return baseline::tiles;
}

// block = (image n, group, `band` output rows): a tile is up to 14 (ROWS) pixels of an output row
// and 32 channels. Output (oh, ow) is written to pixel (oh TH + h0, ow TW + w0) of y, images of YH
// x YW. Shared memory: padded_size(band).
// Bytes: reads 4 per number of x, once for each band that sees it; writes 4 per number of y. The
// filters come from cache.
extern "C" __global__ void direct_forward(
    const real *x /* up(blocks, groups * up(OH, band)) * H * W * C */,
    const real *filters /* groups * up(O / groups, 32) * (1 + KH * KW * (C / groups)) * 32 */,
    real *y /* up(blocks, groups * up(OH, band)) * YH * YW * O */, int H, int W, int C, int KH,
    int KW, int SH, int SW, int PH, int PW, int OH, int OW, int O, int groups, int YH, int YW,
    int TH, int TW, int h0, int w0, int band) {
  Convolution s = {H, W, C, KH, KW, SH, SW, PH, PW, OH, OW, O, groups};
  Tiles tiles = best_tiles();
  int bands = (OH + band - 1) / band, n = blockIdx.x / (groups * bands),
      g = blockIdx.x / bands % groups, first = blockIdx.x % bands * band;
  int rows = least(band, OH - first), pieces = (OW + tiles.rows - 1) / tiles.rows;
  SHARED(real, padded)
  s.copy_padded(x, padded, n, g, first, rows);
  __syncthreads();
  Walk window = {{1, KH, KW * s.CG()}, {0, s.padded_row(), 1}};
  for (int i = threadIdx.x; i < s.panels() * rows * pieces; i += blockDim.x) {
    int p = i / (rows * pieces), r = i / pieces % rows, ow = i64(OW) * (i % pieces) / pieces,
        end = i64(OW) * (i % pieces + 1) / pieces;
    const real *filter = filters + (g * s.panels() + p) * s.panel_size();
    real *out = y + ((i64(n) * YH + (first + r) * TH + h0) * YW + ow * TW + w0) * O + g * s.OG() +
                p * PANEL;
    tiles.run(end - ow, s.width(p), out, i64(TW) * O, filter, 0,
              padded + r * SH * s.padded_row() + ow * SW * s.CG(), SW * s.CG(), filter + PANEL,
              window);
  }
}

// block = (`span` images, group, one of `splits` shares of its panels): a tile is up to 14 (ROWS)
// numbers of a window row and 32 channels, summed over the pixels of `chunk` images and `band`
// output rows at a time. Shared memory: chunk (padded_size(band) + band OW 32).
// Bytes: reads 4 per number of x, once for each share of panels, and 4 per number of gy; writes 4
// per number of the part.
extern "C" __global__ void direct_filter_gradient(
    const real *x /* N * H * W * C */, const real *gy /* N * OH * OW * O */,
    real *
        parts /* up(blocks, groups * splits) * groups * up(O / groups, 32) * (1 + KH * KW * (C / groups)) * 32 */
    ,
    int H, int W, int C, int KH, int KW, int SH, int SW, int PH, int PW, int OH, int OW, int O,
    int groups, int N, int span, int chunk, int band, int splits) {
  Convolution s = {H, W, C, KH, KW, SH, SW, PH, PW, OH, OW, O, groups};
  Tiles tiles = best_tiles();
  int part = blockIdx.x / (groups * splits), g = blockIdx.x / splits % groups,
      split = blockIdx.x % splits;
  int begin = s.panels() * split / splits, end = s.panels() * (split + 1) / splits,
      last = least(N, (part + 1) * span);
  int row = KW * s.CG(), pieces = (row + tiles.rows - 1) / tiles.rows;  // of a window
  real *sums = parts + (i64(part) * groups + g) * s.panels() * s.panel_size();
  for (i64 i = begin * s.panel_size() + threadIdx.x; i < end * s.panel_size(); i += blockDim.x)
    sums[i] = 0;
  SHARED(real, padded)
  i64 image = s.padded_size(band);
  real *panel = padded + chunk * image;  // gy's pixels, one panel of channels
  for (int n = part * span; n < last; n += chunk) {
    int images = least(chunk, last - n);
    for (int oh = 0; oh < OH; oh += band) {
      int rows = least(band, OH - oh), pixels = rows * OW;
      for (int i = 0; i < images; ++i) s.copy_padded(x, padded + i * image, n + i, g, oh, rows);
      for (int p = begin; p < end; ++p) {
        for (int m = threadIdx.x; m < images * pixels; m += blockDim.x) {
          const real *in = gy + (((i64(n) + m / pixels) * OH + oh) * OW + m % pixels) * O +
                           g * s.OG() + p * PANEL;
          std::memcpy(panel + m * PANEL, in, s.width(p) * sizeof(real));
          std::memset(panel + m * PANEL + s.width(p), 0, (PANEL - s.width(p)) * sizeof(real));
        }
        __syncthreads();
        real *out = sums + p * s.panel_size(), bias[PANEL] = {};
        for (int m = 0; m < images * pixels; ++m) {
          for (int v = threadIdx.x; v < PANEL; v += blockDim.x) bias[v] += panel[m * PANEL + v];
        }
        for (int v = threadIdx.x; v < PANEL; v += blockDim.x) out[v] += bias[v];
        Walk over = {{images, rows, OW}, {image, SH * s.padded_row(), SW * s.CG()}};
        for (int i = threadIdx.x; i < KH * pieces; i += blockDim.x) {
          int kh = i / pieces, e = i64(row) * (i % pieces) / pieces,
              to = i64(row) * (i % pieces + 1) / pieces;
          real *here = out + (1 + kh * row + e) * PANEL;
          tiles.run(to - e, PANEL, here, PANEL, here, PANEL, padded + kh * s.padded_row() + e, 1,
                    panel, over);
        }
        __syncthreads();
      }
    }
  }
}

// Pack w (taps, CG, groups OG) and b into panels; block = (group, panel, tap). Bytes per number of
// w: 8. flip: pack the filters of the input gradient, with the taps reversed and c and o exchanged.
extern "C" __global__ void pack_filters(
    const real *__restrict__ w /* taps * CG * groups * OG */,
    const real *__restrict__ b /* groups * (flip * CG + (1 - flip) * OG) */,
    real
        *__restrict__ filters /* groups * up(flip * CG + (1 - flip) * OG, 32) * (1 + taps * (flip * OG + (1 - flip) * CG)) * 32 */
    ,
    int taps, int CG, int OG, int groups, int flip) {
  int rows = flip ? OG : CG, columns = flip ? CG : OG, panels = (columns + PANEL - 1) / PANEL;
  int g = blockIdx.x / (panels * taps), p = blockIdx.x / taps % panels, tap = blockIdx.x % taps,
      width = least(PANEL, columns - p * PANEL);
  real *panel = filters + (i64(g) * panels + p) * (1 + i64(taps) * rows) * PANEL,
       *out = panel + (1 + i64(tap) * rows) * PANEL;
  const real *in = w + i64(flip ? taps - 1 - tap : tap) * CG * groups * OG + g * OG;
  i64 down = flip ? 1 : groups * OG, along = flip ? groups * OG : 1;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    for (int v = 0; v < PANEL; ++v)
      out[row * PANEL + v] = v < width ? in[row * down + (p * PANEL + v) * along] : 0;
  }
  for (int v = threadIdx.x; v < PANEL && tap == 0; v += blockDim.x)
    panel[v] = v < width ? b[g * columns + p * PANEL + v] : 0;
}

// Add up `count` parts, in order, and unpack the sum from panels into gw (taps, CG, groups OG) and
// gb; block = (group, panel, tap). Bytes per number of gw: reads 4 for each part, writes 4.
extern "C" __global__ void unpack_filters(
    const real *__restrict__ parts /* count * groups * up(OG, 32) * (1 + taps * CG) * 32 */,
    real *__restrict__ gw /* taps * CG * groups * OG */, real *__restrict__ gb /* groups * OG */,
    int count, int taps, int CG, int OG, int groups) {
  int panels = (OG + PANEL - 1) / PANEL;
  int g = blockIdx.x / (panels * taps), p = blockIdx.x / taps % panels, tap = blockIdx.x % taps,
      width = least(PANEL, OG - p * PANEL);
  i64 size = (1 + i64(taps) * CG) * PANEL, part = size * panels * groups;
  const real *panel = parts + (i64(g) * panels + p) * size;
  for (int row = int(threadIdx.x) - (tap == 0); row < CG;
       row += blockDim.x) {  // the first tap's block also sums the bias, as row -1
    const real *in = panel + (row < 0 ? 0 : (1 + i64(tap) * CG + row) * PANEL);
    real *out = (row < 0 ? gb : gw + (i64(tap) * CG + row) * groups * OG) + g * OG + p * PANEL;
    real total[PANEL] = {};
    for (int i = 0; i < count; ++i) {
      for (int v = 0; v < PANEL; ++v) total[v] += in[i * part + v];
    }
    for (int v = 0; v < width; ++v) out[v] = total[v];
  }
}
