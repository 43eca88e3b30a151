// The inner loop of the convolutions on a CPU, in which they spend most of their time.
// conv2d_direct.cpp includes this file once per instruction set, each in its own namespace, with
//     TARGET   the instruction set, for the compiler      BYTES   of a vector register
//     ROWS     of a tile, so many that it fits into the registers

typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
constexpr int LANES = BYTES / sizeof(real);

// out[r][v] = start[r][v] + sum over the walk of a[r] * b[v]
//             for R rows r and V (1 or 2) vectors of columns v
//
//     b    |  v v v v  |  v v v v  |   The R x V sums stay in registers. A step loads V vectors of
//   a  r   |  sum sum  |  sum sum  |   b and, for each row, one number of a, which multiplies them.
//                                      So R V multiply-adds need R + V loads.
//      r   |  sum sum  |  sum sum  |
template <int R, int V>
TARGET void tile(real *out, i64 out_row, const real *start, i64 start_row, const real *a, i64 a_row,
                 const real *b, const Walk &walk) {
  vec sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    // `start` is added at the end: summing a walk by itself rounds less in a long total.
    for (int v = 0; v < V; ++v) sum[r][v] = vec{};
  }
  for (int i = 0; i < walk.n[0]; ++i) {
    for (int j = 0; j < walk.n[1]; ++j) {
      const real *here = a + i * walk.step[0] + j * walk.step[1];
      for (int k = 0; k < walk.n[2]; ++k, here += walk.step[2], b += PANEL) {
        vec column[V];
        for (int v = 0; v < V; ++v) column[v] = *(const vec *)(b + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          for (int v = 0; v < V; ++v) sum[r][v] += here[r * a_row] * column[v];
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v)
      *(vec *)(out + r * out_row + v * LANES) =
          *(const vec *)(start + r * start_row + v * LANES) + sum[r][v];
  }
}

typedef void Tile(real *, i64, const real *, i64, const real *, i64, const real *, const Walk &);
template <int V, int... R> constexpr Tile *tile_of(int rows, std::integer_sequence<int, R...>) {
  constexpr Tile *tiles[] = {tile<R + 1, V>...};
  return tiles[rows - 1];
}

// A tile of `rows` rows and the first `width` columns of a panel.
TARGET static void panel_tile(int rows, int width, real *out, i64 out_row, const real *start,
                              i64 start_row, const real *a, i64 a_row, const real *b,
                              const Walk &walk) {
  constexpr auto sizes = std::make_integer_sequence<int, ROWS>();
  for (int v = 0, vectors; v < width; v += vectors * LANES) {
    vectors = width - v > LANES ? 2 : 1;
    Tile *tile = vectors == 2 ? tile_of<2>(rows, sizes) : tile_of<1>(rows, sizes);
    if (v + vectors * LANES <= width) {
      tile(out + v, out_row, start + v, start_row, a, a_row, b + v, walk);
    } else {  // the panel is wider than the array: write only the columns that the array has
      real whole[ROWS * 2 * LANES];
      tile(whole, 2 * LANES, start + v, start_row, a, a_row, b + v, walk);
      for (int r = 0; r < rows; ++r) {
        for (int u = v; u < width; ++u) out[r * out_row + u] = whole[r * 2 * LANES + u - v];
      }
    }
  }
}

static constexpr Tiles tiles = {ROWS, panel_tile};
#undef TARGET
#undef BYTES
#undef ROWS
