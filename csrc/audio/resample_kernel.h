// The sums of resample for one kind of vector; see each_isa.h.
//
// A vector holds neighbouring taps. Rows have the same filter but for its drift, so one load of it
// serves kRows rows. Two multiply-adds an unaligned load, one for the drift and one for the sum,
// are what the ports of a CPU with AVX-512 do in the same time.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kRows = kRegisters == 32 ? 8 : 4;
constexpr int64_t kRowBlock = 48;    // whose inputs stay in the first cache
constexpr int64_t kPhaseBlock = 64;  // whose filters stay in the second
constexpr int kTapBlock = 128;

// Rows at `x`, `x + advance`, ..., each a `part` of the chunk further on. Each has the same
// additions, alone or among others.
template <int kCount, bool kDrifts>
FASTMTE_TARGET FASTMTE_INLINE void filter_rows(const float* x, int64_t advance, const float* taps,
                                               int64_t n_taps, int64_t first_row, float part,
                                               float* out, int64_t stride) {
  constexpr int kSums = kCount < 4 ? 4 : kCount;
  Vector sum[kSums] = {}, later[kCount] = {}, along[kCount];
  for (int row = 0; row < kCount; ++row)
    along[row] = broadcast(static_cast<float>(first_row + row) * part);
  const auto add = [&](int64_t j, Vector* sums) FASTMTE_TARGET __attribute__((always_inline)) {
    const Vector near = load(taps + j);
    const Vector change = kDrifts ? load(taps + n_taps + j) : Vector{};
    FASTMTE_UNROLL
    for (int row = 0; row < kCount; ++row) {
      const Vector tap = kDrifts ? fma(along[row], change, near) : near;
      sums[row] = fma(load(x + row * advance + j), tap, sums[row]);
    }
  };
  // From both ends to the middle, where the taps are large: fewer sums are rounded as large ones.
  int64_t j = 0, end = n_taps - kWidth;
  for (; j < end; j += kWidth, end -= kWidth) {
    add(j, sum);
    add(end, later);
  }
  if (j == end) add(j, sum);
  FASTMTE_UNROLL
  for (int row = 0; row < kCount; ++row) sum[row] = sum[row] + later[row];
  FASTMTE_UNROLL
  for (int row = 0; row < kCount; row += 4) {
    float sums[4];
    sum_lanes(sum[row], sum[row + 1], sum[row + 2], sum[row + 3], sums);
    for (int i = 0; i < 4 && row + i < kCount; ++i) out[(row + i) * stride] = sums[i];
  }
}

// n taps of a filter, up to kTapBlock, from tap `first` on: loops that the compiler vectorizes.
FASTMTE_TARGET inline void compute_taps(const Resampling& job, Centre centre, int first, int n,
                                        double* taps) {
  const double scale = job.places.cut / kFilterSteps, spacing = job.places.spacing;
  const float* const filter = job.filter;
  const double last = static_cast<double>(job.n_filter - 1);
  double at[kTapBlock];
  int step[kTapBlock];
  float low[kTapBlock], high[kTapBlock];
  for (int j = 0; j < n; ++j) at[j] = tap_at(spacing, centre, first + j);
  for (int j = 0; j < n; ++j) step[j] = tap_step(at[j], last);
  for (int j = 0; j < n; ++j) low[j] = filter[step[j]];
  for (int j = 0; j < n; ++j) high[j] = filter[step[j] + 1];
  for (int j = 0; j < n; ++j) taps[j] = tap_value(at[j] - step[j], low[j], high[j]) * scale;
  for (int j = 0; j < n; ++j) taps[j] = at[j] < last ? taps[j] : 0.0;
}

// The filter of a phase, then its change through the chunk, each of n taps, zeros at the end.
FASTMTE_TARGET inline void fill_taps(const Resampling& job, double centre, int64_t n, float* taps) {
  const Centre early = centre_of(job.places, centre);
  const Centre late = centre_of(job.places, centre + chunk_drift(job.places));
  double now[kTapBlock], later[kTapBlock];
  for (int64_t first = 0; first < n; first += kTapBlock) {
    const int count = static_cast<int>(n - first < kTapBlock ? n - first : kTapBlock);
    compute_taps(job, early, static_cast<int>(first), count, now);
    compute_taps(job, late, static_cast<int>(first), count, later);
    float* const near = taps + first;
    float* const change = near + n;
    for (int j = 0; j < count; ++j) near[j] = static_cast<float>(now[j]);
    for (int j = 0; j < count; ++j) change[j] = static_cast<float>(later[j] - now[j]);
  }
}

// Rows [begin, end) of one phase; `x` and `out` are those of row 0.
template <bool kDrifts>
FASTMTE_TARGET inline void filter_phase(const Places& places, const float* x, const float* taps,
                                        int64_t n_taps, int64_t begin, int64_t end, float* out) {
  const int64_t advance = places.advance, stride = places.n_phases;
  const float part = 1.0f / static_cast<float>(places.chunk_rows);
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows)
    filter_rows<kRows, kDrifts>(x + row * advance, advance, taps, n_taps, row, part,
                                out + row * stride, stride);
  for (; row < end; ++row)
    filter_rows<1, kDrifts>(x + row * advance, advance, taps, n_taps, row, part, out + row * stride,
                            stride);
}

// Outputs [begin, end), all of one chunk; `x` is the input that row 0, base 0 of the chunk begins
// with, `out` the place of the chunk's output 0.
FASTMTE_TARGET inline void resample_chunk(const Resampling& job, int64_t chunk, const float* x,
                                          int64_t begin, int64_t end, float* out) {
  const Places& places = job.places;
  const int64_t n_phases = places.n_phases;
  const int64_t n_taps = (places.n_taps + kWidth - 1) / kWidth * kWidth;
  const int64_t first = chunk * places.chunk_rows * n_phases;
  begin -= first;
  end -= first;
  Aligned<float> taps(2 * n_taps * (n_phases < kPhaseBlock ? n_phases : kPhaseBlock));
  int64_t bases[kPhaseBlock];
  for (int64_t phase_0 = 0; phase_0 < n_phases; phase_0 += kPhaseBlock) {
    const int64_t left = n_phases - phase_0, n = left < kPhaseBlock ? left : kPhaseBlock;
    for (int64_t p = 0; p < n; ++p) {
      const PhaseFilter filter = phase_filter(places, chunk, phase_0 + p);
      bases[p] = filter.base;
      fill_taps(job, filter.centre, n_taps, taps.data() + 2 * n_taps * p);
    }
    for (int64_t row = begin / n_phases; row * n_phases < end; row += kRowBlock) {
      for (int64_t p = 0; p < n; ++p) {
        const int64_t phase = phase_0 + p;
        // The phase's own rows whose outputs are in [begin, end).
        const int64_t low = begin > phase ? (begin - phase + n_phases - 1) / n_phases : 0;
        const int64_t high = end > phase ? (end - phase + n_phases - 1) / n_phases : 0;
        const int64_t from = low > row ? low : row, next = row + kRowBlock;
        const auto sum = places.drift == 0 ? filter_phase<false> : filter_phase<true>;
        sum(places, x + bases[p], taps.data() + 2 * n_taps * p, n_taps, from,
            high < next ? high : next, out + phase);
      }
    }
  }
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
