// See label_sums.cpp: included once for each instruction set, with FASTMTE_TARGET and kBytes.

typedef double Doubles __attribute__((vector_size(kBytes), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef float HalfFloats __attribute__((vector_size(kBytes / 2), aligned(4), may_alias));

constexpr int64_t kPage = 4096;  // bytes, beyond which a processor does not read ahead by itself
constexpr int64_t kLine = 64;
constexpr int kIntoL2 = 2;  // of __builtin_prefetch
// Of a row, kept in registers while its labels are passed: half of the registers.
constexpr int kVectorsOfTile = kBytes == 64 ? 16 : 8;

template <typename Sum>
struct VectorOf;
template <>
struct VectorOf<double> {
  using Type = Doubles;
};
template <>
struct VectorOf<float> {
  using Type = Floats;
};

FASTMTE_TARGET FASTMTE_INLINE void load(const float* x, Floats& to) {
  to = *reinterpret_cast<const Floats*>(x);
}
FASTMTE_TARGET FASTMTE_INLINE void load(const double* x, Doubles& to) {
  to = *reinterpret_cast<const Doubles*>(x);
}
FASTMTE_TARGET FASTMTE_INLINE void load(const float* x, Doubles& to) {
  to = __builtin_convertvector(*reinterpret_cast<const HalfFloats*>(x), Doubles);
}

// See AddSongs. Rows of up to kVectors vectors. All comes by value: what a reference names would be
// read again after every store.
template <int kVectors, typename T>
FASTMTE_TARGET bool add_narrow(SongRows<T> rows, SongLabels labels, LabelSums to) {
  constexpr int64_t kWidth = kBytes / sizeof(double);
  uint64_t first = labels.crow[0];
  for (int64_t song = 0; song < rows.n_songs; ++song) {
    const uint64_t last = labels.crow[song + 1];  // -1 is beyond all
    if (first > last || last > labels.n_pairs) return false;
    const T* x = rows[song];
    __builtin_prefetch(x + kPage / sizeof(T));
    if (first == last && !is_finite_body(x, rows.n_features)) return false;
    Doubles row[kVectors];
    FASTMTE_UNROLL
    for (int i = 0; i < kVectors; ++i) load(x + i * kWidth, row[i]);
    for (int64_t before = -1; first < last; ++first) {
      const int64_t label = labels.col[first];
      if (label <= before || label >= to.n_labels) return false;
      before = label;
      ++to.counts[label];
      Doubles* sum = reinterpret_cast<Doubles*>(to.sums + label * to.stride);
      FASTMTE_UNROLL
      for (int i = 0; i < kVectors; ++i) sum[i] += row[i];
    }
  }
  return true;
}

// Adds kVectors vectors of a row to the sums of its n labels.
template <int kVectors, typename T, typename Sum>
FASTMTE_TARGET FASTMTE_INLINE void add_tile(const T* x, const int64_t* label, int64_t n, Sum* sums,
                                            int64_t stride) {
  using Vector = typename VectorOf<Sum>::Type;
  constexpr int kWidth = kBytes / sizeof(Sum);
  Vector row[kVectors];
  FASTMTE_UNROLL
  for (int i = 0; i < kVectors; ++i) load(x + i * kWidth, row[i]);
  for (int64_t at = 0; at < n; ++at) {
    Vector* sum = reinterpret_cast<Vector*>(sums + label[at] * stride);
    FASTMTE_UNROLL
    for (int i = 0; i < kVectors; ++i) sum[i] += row[i];
  }
}

// Moves a label's group to its sums.
FASTMTE_TARGET FASTMTE_INLINE void join_group(const LabelSums& to, int64_t label) {
  float* group = to.group + label * to.stride;
  double* sum = to.sums + label * to.stride;
  constexpr int64_t kWidth = kBytes / sizeof(double);
  for (int64_t d = 0; d < to.stride; d += kWidth) {
    Doubles part;
    load(group + d, part);
    *reinterpret_cast<Doubles*>(sum + d) += part;
    *reinterpret_cast<HalfFloats*>(group + d) = HalfFloats{};
  }
}

// See AddSongs. Rows of any width, `sums` being those of `to` that are added to first.
template <typename T, typename Sum>
FASTMTE_TARGET bool add_wide(SongRows<T> rows, SongLabels labels, LabelSums to, Sum* sums) {
  constexpr bool kInGroups = sizeof(Sum) == sizeof(float);
  constexpr int64_t kWidth = kBytes / sizeof(Sum), kTile = kVectorsOfTile * kWidth;
  // All of a row; the first line of a long one, whose others are read ahead.
  const int64_t n_ahead = rows.n_features * sizeof(T) > kPage / 4 ? 1 : rows.n_features;
  uint64_t first = labels.crow[0];
  for (int64_t song = 0; song < rows.n_songs; ++song) {
    const uint64_t last = labels.crow[song + 1];
    if (first > last || last > labels.n_pairs) return false;
    const int64_t *label = labels.col + first, n = last - first;
    first = last;
    for (int64_t at = 0, before = -1; at < n; ++at) {
      if (label[at] <= before || label[at] >= to.n_labels) return false;
      before = label[at];
      ++to.counts[before];
    }
    const T* x = rows[song];
    for (int64_t d = 0; d < n_ahead; d += kLine / sizeof(T))
      __builtin_prefetch(x + kPage / sizeof(T) + d, 0, kIntoL2);
    if (n == 0 && !is_finite_body(x, rows.n_features)) return false;
    int64_t d = 0;
    for (; d + kTile <= rows.n_features; d += kTile)
      add_tile<kVectorsOfTile>(x + d, label, n, sums + d, to.stride);
    if (d + kTile / 2 <= rows.n_features) {
      add_tile<kVectorsOfTile / 2>(x + d, label, n, sums + d, to.stride);
      d += kTile / 2;
    }
    if (d + kTile / 4 <= rows.n_features) {
      add_tile<kVectorsOfTile / 4>(x + d, label, n, sums + d, to.stride);
      d += kTile / 4;
    }
    for (; d < rows.n_features; d += kWidth) add_tile<1>(x + d, label, n, sums + d, to.stride);
    if constexpr (kInGroups)
      for (int64_t at = 0; at < n; ++at)
        if (to.counts[label[at]] % kSongsPerGroup == 0) join_group(to, label[at]);
  }
  if constexpr (kInGroups)
    for (int64_t label = 0; label < to.n_labels; ++label)
      if (to.counts[label] % kSongsPerGroup != 0) join_group(to, label);
  return true;
}

template <typename T>
FASTMTE_TARGET bool add_songs(const SongRows<T>& rows, const SongLabels& labels,
                              const LabelSums& to) {
  constexpr int64_t kWidth = kBytes / sizeof(double);
  if constexpr (sizeof(T) == sizeof(float))
    if (to.group != nullptr) return add_wide(rows, labels, to, to.group);
  switch ((rows.n_features + kWidth - 1) / kWidth) {
    case 1:
      return add_narrow<1>(rows, labels, to);
    case 2:
      return add_narrow<2>(rows, labels, to);
    case 3:
      return add_narrow<3>(rows, labels, to);
    case 4:
      return add_narrow<4>(rows, labels, to);
    case 5:
      return add_narrow<5>(rows, labels, to);
    case 6:
      return add_narrow<6>(rows, labels, to);
    case 7:
      return add_narrow<7>(rows, labels, to);
    case 8:
      return add_narrow<8>(rows, labels, to);
    default:
      return add_wide(rows, labels, to, to.sums);
  }
}
