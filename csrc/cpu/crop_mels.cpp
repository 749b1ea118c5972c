// crop_mels on the CPU: copies rows of frames, converting float16 on the way.
#include "crop_mels.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Half.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <limits>

#include "simd.h"

namespace fastmte {
namespace {

using Half = torch::headeronly::Half;
constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kAheadBytes = 4096;  // a page, at whose end the CPU's own look-ahead stops
// What is larger than a core's cache goes past it: a store that only fills a line need not read it
// first, which is a third of the traffic.
constexpr int64_t kLargeBytes = 8 << 20;

// n values to be read, those that will be read next, and whether targets go past the cache.
template <typename T>
struct Run {
  const T* source;
  const T* next;
  int64_t n;
  bool is_large;
};

template <typename T>
bool copy_baseline(const Run<T>& run, float* target) {
  for (int64_t i = 0; i < run.n; ++i) target[i] = static_cast<float>(run.source[i]);
  return is_finite_body(target, run.n);
}

#ifdef FASTMTE_HAS_AVX2

// How many values before the first whole line of `target`.
inline int64_t before_line(const float* target, int64_t n) {
  const int64_t past = reinterpret_cast<uintptr_t>(target) % 64 / sizeof(float);
  return std::min(n, (16 - past) % 16);
}

FASTMTE_CLONE_FOR_AVX2 FASTMTE_INLINE __m256 eight(const float* x) { return _mm256_loadu_ps(x); }

FASTMTE_CLONE_FOR_AVX2 FASTMTE_INLINE __m256 eight(const Half* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

FASTMTE_CLONE_FOR_AVX512 FASTMTE_INLINE __m512 sixteen(const float* x) {
  return _mm512_loadu_ps(x);
}

FASTMTE_CLONE_FOR_AVX512 FASTMTE_INLINE __m512 sixteen(const Half* x) {
  // GCC 12 warns of the intrinsic without a mask.
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

// Copies the lines of `target` from i on while a whole one is left before `end`; `ahead` is where
// to look for what comes later. The exponents, or'ed, say whether all values are finite.
template <bool kStream, typename T>
FASTMTE_CLONE_FOR_AVX2 int64_t copy_lines_avx2(const T* source, const T* ahead, float* target,
                                               int64_t i, int64_t end, bool& is_finite) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  __m256i bad = _mm256_setzero_si256();
  for (; i + 16 <= end; i += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
    for (int64_t at = i; at < i + 16; at += 8) {
      const __m256 x = eight(source + at);
      kStream ? _mm256_stream_ps(target + at, x) : _mm256_storeu_ps(target + at, x);
      const __m256i bits = _mm256_and_si256(_mm256_castps_si256(x), exponent);
      bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(bits, exponent));
    }
  }
  is_finite = is_finite && _mm256_testz_si256(bad, bad);
  return i;
}

template <bool kStream, typename T>
FASTMTE_CLONE_FOR_AVX512 int64_t copy_lines_avx512(const T* source, const T* ahead, float* target,
                                                   int64_t i, int64_t end, bool& is_finite) {
  const __m512i exponent = _mm512_set1_epi32(0x7f800000);
  __mmask16 bad = 0;
  for (; i + 16 <= end; i += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
    const __m512 x = sixteen(source + i);
    kStream ? _mm512_stream_ps(target + i, x) : _mm512_storeu_ps(target + i, x);
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(x), exponent);
    bad |= _mm512_cmpeq_epi32_mask(bits, exponent);
  }
  is_finite = is_finite && bad == 0;
  return i;
}

template <bool kStream, typename T>
int64_t copy_lines(const T* source, const T* ahead, float* target, int64_t i, int64_t end,
                   bool& is_finite) {
  return isa() == Isa::kAvx512
             ? copy_lines_avx512<kStream>(source, ahead, target, i, end, is_finite)
             : copy_lines_avx2<kStream>(source, ahead, target, i, end, is_finite);
}

template <bool kStream, typename T>
bool copy_by_lines(const Run<T>& run, float* target) {
  constexpr int64_t kAhead = kAheadBytes / sizeof(T);
  const int64_t first = before_line(target, run.n);
  const int64_t turn = std::max(first, run.n - kAhead);  // from here on the next run is ahead
  bool is_finite = copy_baseline<T>({run.source, run.next, first, false}, target);
  int64_t i = copy_lines<kStream>(run.source, run.source + kAhead, target, first, turn, is_finite);
  i = copy_lines<kStream>(run.source, run.next - turn, target, i, run.n, is_finite);
  const Run<T> rest{run.source + i, run.next, run.n - i, false};
  return copy_baseline(rest, target + i) && is_finite;
}
#endif

// Copies a run and says whether all its values are finite.
template <typename T>
bool copy(const Run<T>& run, float* target) {
#ifdef FASTMTE_HAS_AVX2
  if (has_avx2())
    return run.is_large ? copy_by_lines<true>(run, target) : copy_by_lines<false>(run, target);
#endif
  return copy_baseline(run, target);
}

// Copies one band of a song that is shorter than the crop, round and round.
template <typename T>
bool copy_round(const T* band, const CropSource& source, int64_t frames, float* target) {
  int64_t from = source.start % source.length;
  bool is_finite = true;
  for (int64_t done = 0; done < frames; from = 0) {
    const int64_t n = std::min(frames - done, source.length - from);
    is_finite = copy<T>({band + from, band, n, false}, target + done) && is_finite;
    done += n;
  }
  return is_finite;
}

// Copies rows [begin, end) and returns the first of those among which a value is not finite.
template <typename T>
int64_t crop_rows(const T* mels, const CropTables& tables, float* crops, bool is_large,
                  int64_t begin, int64_t end) {
  const auto first = [&](int64_t row) {
    const CropSource source = crop_source(tables, row / tables.bands);
    return mels + source.offset + row % tables.bands * source.length + source.start;
  };
  int64_t bad_row = tables.n_crops * tables.bands;
  for (int64_t row = begin, n_rows; row < end; row += n_rows) {
    const int64_t frames = tables.frames, crop = row / tables.bands;
    const CropSource source = crop_source(tables, crop);
    float* target = crops + row * frames;
    n_rows = 1;
    bool is_finite;
    if (source.length < frames) {
      const T* band = mels + source.offset + row % tables.bands * source.length;
      is_finite = copy_round(band, source, frames, target);
    } else {
      // The bands of a song that is just as long as the crop follow one another.
      if (source.length == frames) n_rows = std::min(end, (crop + 1) * tables.bands) - row;
      const T* from = first(row);
      const T* next = row + n_rows < end ? first(row + n_rows) : from;
      is_finite = copy<T>({from, next, n_rows * frames, is_large}, target);
    }
    if (!is_finite) bad_row = std::min(bad_row, row);
  }
#ifdef FASTMTE_HAS_AVX2
  _mm_sfence();
#endif
  return bad_row;
}

template <typename T>
void crop(const T* mels, const CropTables& tables, float* crops) {
  const int64_t n_rows = tables.n_crops * tables.bands, n_values = n_rows * tables.frames;
  const bool is_large = n_values * static_cast<int64_t>(sizeof(float)) >= kLargeBytes;
  std::atomic<int64_t> bad_row{n_rows};
  torch::stable::parallel_for(0, n_rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    keep_least(bad_row, crop_rows(mels, tables, crops, is_large, begin, end));
  });
  if (bad_row == n_rows) return;
  const float* bad = std::find_if(crops + bad_row * tables.frames, crops + n_values,
                                  [](float x) { return !std::isfinite(x); });
  const int64_t row = (bad - crops) / tables.frames, frame = (bad - crops) % tables.frames;
  const CropSource source = crop_source(tables, row / tables.bands);
  fail_crop_not_finite(source, crop_position(source, row % tables.bands, frame), *bad);
}

// Rows are independent: any number of threads gives the same bits.
void crop(const CropInputs& inputs, float* crops) {
  check_crop_tables(inputs.tables);
  if (inputs.mels.scalar_type() == ScalarType::Half)
    crop(static_cast<const Half*>(inputs.mels.const_data_ptr()), inputs.tables, crops);
  else
    crop(inputs.mels.const_data_ptr<float>(), inputs.tables, crops);
}

// Lets new memory come in pages of 2 MB where it is large: the faults of 4 KB ones would take
// several times as long as the crops.
void use_large_pages([[maybe_unused]] float* memory, [[maybe_unused]] int64_t n_bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + n_bytes;
  if (n_bytes >= kLargeBytes) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// See fastmte/ops.py.
Tensor crop_mels(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                 const Tensor& index, const std::optional<Tensor>& starts, int64_t frames,
                 int64_t bands) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, frames, bands);
  const int64_t n_crops = inputs.tables.n_crops;
  Tensor crops = torch::stable::new_empty(mels, {n_crops, bands, frames}, ScalarType::Float);
  float* target = crops.mutable_data_ptr<float>();
  use_large_pages(target, n_crops * bands * frames * static_cast<int64_t>(sizeof(float)));
  crop(inputs, target);
  return crops;
}

void crop_mels_into(const Tensor& mels, const Tensor& offsets, const Tensor& lengths,
                    const Tensor& index, const std::optional<Tensor>& starts, Tensor crops) {
  const CropInputs inputs = crop_inputs(mels, offsets, lengths, index, starts, crops);
  Tensor own = torch::stable::contiguous(crops);
  crop(inputs, own.mutable_data_ptr<float>());
  if (own.const_data_ptr() != crops.const_data_ptr()) torch::stable::copy_(crops, own);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("crop_mels", TORCH_BOX(&crop_mels));
  m.impl("crop_mels.into", TORCH_BOX(&crop_mels_into));
}

}  // namespace fastmte
