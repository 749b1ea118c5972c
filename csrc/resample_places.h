// Where the outputs of resample lie among its inputs, on every device; fastmte/_places.py says the
// same in Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>

#include "host_device.h"

namespace fastmte {

constexpr int64_t kFilterSteps = 491;  // of the filter's table, an input sample at full band
constexpr double kFixedPoint = 4096;   // libsamplerate rounds the spacing of taps to 1 / 4096 step
constexpr int64_t kChunkOutputs = 20480;  // from one exact filter to the next; linear in between
constexpr int64_t kLeastChunkRows = 16;

// P outputs are a row. A chunk is chunk_rows rows: all that its filters depend on is the chunk, so
// that an output has the same bits in every window around it.
struct Places {
  int64_t n_phases, advance;  // P, and the inputs from one row to the next
  double step;                // inputs an output, by the float32 ratio
  double drift;               // of that from advance / n_phases
  double cut;                 // steps of the table that one input sample is, ratio < 1 stretches it
  double spacing;             // steps of the table from one tap to the next
  int64_t half, n_taps, chunk_rows;
};

inline Places places_of(int64_t sample_rate, int64_t target, int64_t n_filter) {
  const int64_t divisor = std::gcd(sample_rate, target);
  Places places{target / divisor, sample_rate / divisor, 0, 0, 0, 0, 0, 0, 0};
  const double ratio = static_cast<float>(target) / static_cast<float>(sample_rate);
  places.step = 1.0 / ratio;
  places.drift =
      places.step - static_cast<double>(places.advance) / static_cast<double>(places.n_phases);
  places.cut = kFilterSteps * (ratio < 1 ? ratio : 1.0);
  places.spacing = std::nearbyint(places.cut * kFixedPoint) / kFixedPoint;
  if (n_filter > 0) {
    const double reach = static_cast<double>(n_filter - 2) / places.spacing;
    places.half = static_cast<int64_t>(std::ceil(reach)) + 1;
    places.n_taps = 2 * places.half + 2;
  }
  const int64_t rows = kChunkOutputs / places.n_phases;
  places.chunk_rows = rows > kLeastChunkRows ? rows : kLeastChunkRows;
  return places;
}

// The filter of one phase in one chunk: tap j weighs input first_row * advance + base + j.
struct PhaseFilter {
  int64_t base;
  double centre;  // in taps from base, in the chunk's first row; `drifts` more a chunk later
};

FASTMTE_HD inline PhaseFilter phase_filter(const Places& places, int64_t chunk, int64_t phase) {
  const auto drifted =
      static_cast<double>(chunk * places.chunk_rows * places.n_phases) * places.drift;
  const double p = static_cast<double>(phase);
  const double ratio = static_cast<double>(places.advance) / static_cast<double>(places.n_phases);
  const double place = p * ratio + p * places.drift + drifted;
  const int64_t base = static_cast<int64_t>(floor(place)) - places.half;
  return {base, place - static_cast<double>(base)};
}

FASTMTE_HD inline double chunk_drift(const Places& places) {
  return static_cast<double>(places.chunk_rows * places.n_phases) * places.drift;
}

// Where a filter is centred: in taps, and the steps of its table from there to the place itself.
struct Centre {
  double whole, rest;
};

FASTMTE_HD inline Centre centre_of(const Places& places, double centre) {
  const double whole = floor(centre);
  return {whole, (centre - whole) * places.cut};
}

// Tap j of a filter is `at` steps from the middle of its table, between step and step + 1, or 0
// where `at` is not below the last.
FASTMTE_HD inline double tap_at(double spacing, Centre centre, int j) {
  return fabs((j - centre.whole) * spacing - centre.rest);
}

FASTMTE_HD inline int tap_step(double at, double last) {
  return static_cast<int>(at < last ? at : last - 1);
}

FASTMTE_HD inline double tap_value(double part, float low, float high) {
  return low + part * (static_cast<double>(high) - static_cast<double>(low));
}

// Linear resampling, one input late as libsamplerate has it: output k lies between two inputs.
struct Between {
  int64_t left, right;
  double part;  // of the way
};

FASTMTE_HD inline Between between(const Places& places, int64_t output) {
  const double place = static_cast<double>(output) * places.step;
  const int64_t right = static_cast<int64_t>(place);
  return {right > 0 ? right - 1 : 0, right, place - static_cast<double>(right)};
}

FASTMTE_HD inline float interpolated(float left, float right, double part) {
  return static_cast<float>(left + part * (right - left));
}

}  // namespace fastmte
