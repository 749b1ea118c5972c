// The loops of the filter over vectors `Floats`, included once for each instruction set, with
// FASTMTE_TARGET set to its attribute.

#define FASTMTE_TARGET_INLINE FASTMTE_TARGET static inline __attribute__((always_inline))

// Scores of kTile vectors of rows and kCentres centroids. Each pass loads a row value once for all
// centroids; the products of a centroid are independent of those of the others. A block of wide
// rows does not stay in the L1 cache, so it is asked for some passes ahead: a sixth of the time.
template <int kCentres, int kTile>
FASTMTE_TARGET_INLINE void score_tile(const float* values, const float* squares,
                                      const float* offsets, int64_t n_features,
                                      Floats (&scores)[kCentres][kTile]) {
  constexpr int64_t kAhead = 8;
  Floats dot[kCentres][kTile];
#pragma GCC unroll 8
  for (int j = 0; j < kCentres; ++j)
#pragma GCC unroll 4
    for (int i = 0; i < kTile; ++i) dot[j][i] = broadcast(0.0f);
  for (int64_t d = 0; d < n_features; ++d) {
    Floats y[kTile];
#pragma GCC unroll 4
    for (int i = 0; i < kTile; ++i) {
      y[i] = load(values + d * kRows + i * kWidth);
      __builtin_prefetch(values + (d + kAhead) * kRows + i * kWidth);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kCentres; ++j) {
      const Floats o = broadcast(offsets[d * kGroup + j]);
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) dot[j][i] = multiply_add(y[i], o, dot[j][i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) {
    const Floats square = load(squares + i * kWidth);
#pragma GCC unroll 8
    for (int j = 0; j < kCentres; ++j) scores[j][i] = add(square, dot[j][i]);
  }
}

// The least of n_kept maxima of disjoint sets of rows: so many rows score at least that.
FASTMTE_TARGET_INLINE float least_of(const float* maxima, int64_t n_kept) {
  float merged[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) merged[i] = maxima[i];
  for (int64_t half = kLanes / 2; half >= n_kept; half /= 2)
    for (int64_t i = 0; i < half; ++i) merged[i] = std::max(merged[i], merged[i + half]);
  float least = merged[0];
  for (int64_t i = 1; i < n_kept; ++i) least = std::min(least, merged[i]);
  return least;
}

// Drops the rows that no longer score enough.
FASTMTE_TARGET_INLINE void prune(Farthest& kept) {
  int32_t n = 0;
  for (int32_t i = 0; i < kept.n; ++i)
    if (kept.score[i] > kept.least) {
      kept.score[n] = kept.score[i];
      kept.row[n++] = kept.row[i];
    }
  kept.n = n;
}

// Keeps those of the scores, of rows from `first_row` on, that may be among the farthest.
template <int kTile>
FASTMTE_TARGET_INLINE void keep(Farthest& kept, int64_t n_kept, const Floats (&scores)[kTile],
                                int32_t first_row) {
  const Floats least = broadcast(kept.least);
  uint32_t mask[kTile], any = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) any |= mask[i] = above(scores[i], least);
  if (any == 0) return;
  if (kept.n > kMaxKept - kTile * kWidth) {
    prune(kept);
    kept.is_full = kept.is_full || kept.n > kMaxKept - kTile * kWidth;
    if (kept.is_full) return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) {
    const int32_t row = first_row + i * kWidth;
    append(scores[i], mask[i], row, kept.score + kept.n, kept.row + kept.n);
    kept.n += __builtin_popcount(mask[i]);
    float* maxima = kept.maxima + row % kLanes;
    store(maxima, larger(load(maxima), scores[i]));
  }
  kept.least = least_of(kept.maxima, n_kept);
}

// One block against kCentres centroids of a group, of which n are asked for.
template <int kCentres>
FASTMTE_TARGET_INLINE void block_farthest(const FilterRows& rows, int64_t block,
                                          const float* offsets, int64_t n, int64_t n_kept,
                                          Farthest* farthest) {
  constexpr int kTile = kCentres * kWidth * 2 <= kScoresInRegisters ? 2 : 1;
  for (int64_t row = 0; row < kRows; row += kTile * kWidth) {
    Floats scores[kCentres][kTile];
    score_tile(rows.values + block * rows.n_features * kRows + row,
               rows.squares + block * kRows + row, offsets, rows.n_features, scores);
#pragma GCC unroll 8
    for (int j = 0; j < kCentres; ++j)  // a constant number, so that the scores stay in registers
      if (j < n) keep(farthest[j], n_kept, scores[j], static_cast<int32_t>(block * kRows + row));
  }
}

// Whether a row of `radius` can be farther than those kept: |y|^2 - 2 y.o <= r^2 + 2 r |o|.
FASTMTE_TARGET_INLINE bool can_reach(double radius, const FilterCentre* centres,
                                     const Farthest* farthest, int64_t n) {
  bool can = false;
  for (int64_t j = 0; j < n; ++j)
    can |= radius * (radius + 2 * centres[j].norm) + centres[j].margin >= farthest[j].least;
  return can;
}

FASTMTE_TARGET int64_t find_farthest(const FilterRows& rows, int64_t first_block,
                                     const float* offsets, const FilterCentre* centres,
                                     int64_t n_centres, int64_t n_kept, Farthest* farthest,
                                     int32_t* active) {
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  int64_t n_active = (n_centres + kGroup - 1) / kGroup, n_scores = 0;
  for (int32_t group = 0; group < n_active; ++group) active[group] = group;
  for (int64_t j = 0; j < n_centres; ++j) {
    Farthest& kept = farthest[j];
    kept.n = 0;
    kept.least = kLeast;
    kept.is_full = false;
    for (float& maximum : kept.maxima) maximum = kLeast;
  }
  for (int64_t block = first_block; block < rows.n_blocks && n_active > 0; ++block) {
    int64_t n_still = 0;
    for (int64_t i = 0; i < n_active; ++i) {
      const int64_t begin = active[i] * kGroup, n = std::min(kGroup, n_centres - begin);
      Farthest* kept = farthest + begin;
      if (!can_reach(rows.radius[block], centres + begin, kept, n)) continue;
      active[n_still++] = active[i];
      const float* group_offsets = offsets + begin * rows.n_features;
      if (n > 4)
        block_farthest<8>(rows, block, group_offsets, n, n_kept, kept);
      else if (n > 2)
        block_farthest<4>(rows, block, group_offsets, n, n_kept, kept);
      else
        block_farthest<2>(rows, block, group_offsets, n, n_kept, kept);
      n_scores += n * kRows;
    }
    n_active = n_still;
  }
  return n_scores;
}

FASTMTE_TARGET int64_t score_rows(const FilterRows& rows, int64_t first_block, const float* offsets,
                                  const FilterCentre& centre, double tie_part, float* scores) {
  float top = -std::numeric_limits<float>::infinity();
  double floor = top;
  int64_t block = first_block;
  for (; block < rows.n_blocks; ++block) {
    const double radius = rows.radius[block];
    if (radius * (radius + 2 * centre.norm) + centre.margin < floor) break;
    bool is_higher = false;
    for (int64_t row = 0; row < kRows; row += kWidth) {
      Floats tile[1][1];
      score_tile(rows.values + block * rows.n_features * kRows + row,
                 rows.squares + block * kRows + row, offsets, rows.n_features, tile);
      store(scores + block * kRows + row, tile[0][0]);
      is_higher = is_higher || above(tile[0][0], broadcast(top)) != 0;
    }
    if (!is_higher) continue;
    for (int64_t row = 0; row < kRows; ++row) top = std::max(top, scores[block * kRows + row]);
    floor = tie_floor(top, centre, tie_part);
  }
  return block;
}

#undef FASTMTE_TARGET_INLINE
