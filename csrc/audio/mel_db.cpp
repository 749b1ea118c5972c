// mel_db on the CPU: groups of frames, a vector's lane each.
#include "audio/mel_db.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#define FASTMTE_KERNELS "audio/mel_db_kernel.h"
#define FASTMTE_FLOAT32_ONLY
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

constexpr int64_t kMostLanes = 16;
constexpr int64_t kLine = 16;  // floats of a cache line
constexpr int64_t kGroupsAPiece = 8;

// cos and -sin of 2 pi i / n, n even, from those of the first eighth or so.
void fill_circle(int64_t n, std::vector<float>& cosine, std::vector<float>& sine) {
  constexpr double kPi = 3.14159265358979323846;
  cosine.resize(n);
  sine.resize(n);
  const auto put = [&](int64_t i, double c, double s) {
    cosine[i] = static_cast<float>(c);
    sine[i] = static_cast<float>(-s);
  };
  if (n % 8) {
    for (int64_t i = 0; i < n; ++i) {
      const double angle = 2 * kPi * static_cast<double>(i) / static_cast<double>(n);
      put(i, std::cos(angle), std::sin(angle));
    }
    return;
  }
  const int64_t quarter = n / 4;
  for (int64_t i = 0; i <= n / 8; ++i) {
    const double angle = 2 * kPi * static_cast<double>(i) / static_cast<double>(n);
    const double c = std::cos(angle), s = std::sin(angle);
    put(i, c, s);
    put(quarter - i, s, c);
    put(quarter + i, -s, c);
    put(2 * quarter - i, -c, s);
    put(2 * quarter + i, -c, -s);
    put(3 * quarter - i, -s, -c);
    put(3 * quarter + i, s, -c);
    put((4 * quarter - i) % n, c, -s);
  }
}

// The samples of a frame: where they lie, or a copy in `edges` with zeros outside the song.
const float* frame_samples(const MelPlan& plan, const MelFrames& job, int64_t frame, int64_t lane,
                           std::vector<float>& edges) {
  const int64_t begin = job.offset + frame * plan.hop, end = begin + plan.size;
  if (begin >= 0 && end <= job.n_samples) return job.samples + begin;
  edges.resize(kMostLanes * plan.size);
  float* const to = edges.data() + lane * plan.size;
  std::fill_n(to, plan.size, 0.0f);
  const int64_t low = std::max<int64_t>(begin, 0), high = std::min(end, job.n_samples);
  if (low < high) std::copy_n(job.samples + low, high - low, to + (low - begin));
  return to;
}

// The power of two that brings the largest of n samples to about 1; NaN where one is not finite.
float scale_of(const float* x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::abs(x[i]));
  }
  if (largest == 0) return 1;
  return std::ldexp(1.0f, std::clamp(-std::ilogb(largest), -120, 120));
}

struct Group {
  const float* rows[kMostLanes];
  float shift[kMostLanes] = {};
  float totals[kMostLanes];
};

// The frames of a group whose sums left the range of float32, or came near its lower end where the
// floor is lower still, are computed again from scaled samples. Depends on the frame alone.
bool rescale(const MelPlan& plan, Group& group, int64_t n_frames, std::vector<float>& scaled) {
  constexpr float kLeast = 1e-20f;
  const bool is_low = plan.floor_db < plan.db_per_decade * -30;
  bool is_any = false;
  for (int64_t lane = 0; lane < n_frames; ++lane) {
    const float total = group.totals[lane];
    if (std::isfinite(total) && !(is_low && total < kLeast)) continue;
    is_any = true;
    scaled.resize(kMostLanes * plan.size);
    float* to = scaled.data() + lane * plan.size;
    const float scale = scale_of(group.rows[lane], plan.size);
    for (int64_t i = 0; i < plan.size; ++i)
      to[i] = std::isnan(scale) ? 0.0f : group.rows[lane][i] * scale;
    group.rows[lane] = to;
    group.shift[lane] = -2 * plan.db_per_decade * std::log10(scale);
  }
  return is_any;
}

}  // namespace

MelPlan mel_plan(const float* window, int64_t size, const float* weights, const int64_t* first_bins,
                 const int64_t* splits, int64_t bands, int64_t hop, double db_per_decade,
                 double floor_db) {
  MelPlan plan{size,
               hop,
               bands,
               weights,
               first_bins,
               splits,
               static_cast<float>(db_per_decade),
               static_cast<float>(db_per_decade * 0.30102999566398120),
               static_cast<float>(db_per_decade * 0.43429448190325183),
               static_cast<float>(floor_db),
               {},
               {},
               {},
               {}};
  plan.window.assign(window, window + size);
  for (float& x : plan.window) x *= 0.5f;
  fill_circle(size, plan.cosine, plan.sine);
  for (int64_t s = 1; s < size / 2; s *= plan.passes.back().radix)
    plan.passes.push_back(fft_pass(size / 2, s, 16));
  return plan;
}

int64_t n_pieces(const MelFrames& job) {
  const int64_t frames = kGroupsAPiece * FASTMTE_CHOOSE(lanes)();
  return (job.frames + frames - 1) / frames;
}

void mel_piece(const MelPlan& plan, const MelFrames& job, int64_t piece) {
  using Run = void (*)(const MelPlan&, float*, const float* const*, const float*, int64_t, float*,
                       int64_t, float*);
  const Run run = FASTMTE_CHOOSE(mel_group);
  const int64_t lanes = FASTMTE_CHOOSE(lanes)();
  // Vectors at a cache line, not set: zeros would take a thirtieth of the time.
  const std::unique_ptr<float[]> memory(new float[3 * plan.size * lanes + kLine]);
  float* const room =
      memory.get() +
      (kLine - reinterpret_cast<uintptr_t>(memory.get()) / sizeof(float) % kLine) % kLine;
  std::vector<float> edges, scaled;
  const int64_t first = piece * kGroupsAPiece * lanes;
  const int64_t last = std::min(first + kGroupsAPiece * lanes, job.frames);
  for (int64_t frame = first; frame < last; frame += lanes) {
    Group group;
    for (int64_t lane = 0; lane < lanes; ++lane)
      group.rows[lane] = frame_samples(plan, job, std::min(frame + lane, last - 1), lane, edges);
    const int64_t n_frames = std::min(lanes, last - frame);
    const auto compute = [&] {
      run(plan, room, group.rows, group.shift, n_frames, job.out + frame, job.frames, group.totals);
    };
    compute();
    if (rescale(plan, group, n_frames, scaled)) compute();
  }
}

}  // namespace fastmte

// For ctypes: all arguments checked before, arrays contiguous. Returns 1 where memory is short.
extern "C" __attribute__((visibility("default"))) int fastmte_mel_db(
    const float* samples, int64_t n_samples, const float* window, int64_t size,
    const float* weights, const int64_t* first_bins, const int64_t* splits, int64_t bands,
    int64_t hop, int64_t offset, int64_t frames, double db_per_decade, double floor_db,
    float* out) {
  using namespace fastmte;
  try {
    const MelPlan plan =
        mel_plan(window, size, weights, first_bins, splits, bands, hop, db_per_decade, floor_db);
    const MelFrames job{samples, n_samples, offset, frames, out};
    for (int64_t piece = 0; piece < n_pieces(job); ++piece) mel_piece(plan, job, piece);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
