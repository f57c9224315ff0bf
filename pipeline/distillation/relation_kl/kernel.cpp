// The relation loss of a batch: threads take items, a few heads of one sequence each, until none is left. Each value and
// each gradient is made by one thread in one order, so how many there are changes no bit.
//
// Shapes: N positions, A relation heads, d channels of a head (each model its own).

#include <cstdlib>

#include "head.h"

namespace {

struct Job {                      // as `_Job` in compiled.py
  const void *student, *teacher;  // (N, A * d)
  void *gradient;                 // (N, A * d of the student), dense, in the student's type; null: the value alone
  double *losses;                 // (sequences, A)
  const int64_t *starts, *lengths;
  int64_t sequences, longest, heads, heads_per_item;
  int64_t student_channels, teacher_channels, student_row, teacher_row;  // *_row: elements from row to row
  int64_t student_bf16, teacher_bf16;
  int64_t next;  // the item to be taken next, by whichever thread
};

// How many channels are summed together: least padding, then most at once.
int64_t group_of(int64_t channels) {
  int64_t best = 4;
  for (int64_t group : {6, 8, 12, 16}) {
    const auto padding = [channels](int64_t k) { return (channels + k - 1) / k * k; };
    if (group <= GROUP && padding(group) <= padding(best)) best = group;
  }
  return best;
}

int64_t padded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

class Scratch {
 public:
  float *memory = nullptr, *cross = nullptr, *dx = nullptr;
  Model student{}, teacher{};
  int64_t group;

  explicit Scratch(const Job &job) : group(group_of(job.student_channels)) {
    const int64_t width = padded(job.longest, W), powers = width <= KEPT ? width * width : padded(W * W, width);
    const int64_t stride = padded(job.student_channels, group), wide = padded(job.teacher_channels, 4);
    const int64_t floats = width * (3 * stride + 2 * wide + 5) + 2 * (powers + W);
    float *free = memory = static_cast<float *>(std::aligned_alloc(4 * W, padded(4 * floats, 4 * W)));
    if (!memory) return;
    const auto take = [&free](int64_t count) { return free += count, free - count; };
    cross = take(width), dx = take(width * stride);
    for (Model *m : {&student, &teacher}) {
      m->channels = m == &student ? job.student_channels : job.teacher_channels;
      m->stride = m == &student ? stride : wide;
      m->rows = take(width * m->stride + W), m->columns = take(width * m->stride);  // W: tiles are read whole
      m->bias = take(width), m->sums = take(width);
    }
    student.powers = take(powers), teacher.powers = take(powers);
    std::memset(memory, 0, 4 * (floats - 2 * powers));  // the padding of channels stays so
  }
  ~Scratch() { std::free(memory); }
  Scratch(const Scratch &) = delete;
};

void read_row(const float *x, float *row, int64_t channels) {
  int64_t k = 0;
  for (; k + 4 <= channels; k += 4) std::memcpy(row + k, x + k, 16);
  for (; k < channels; k++) row[k] = x[k];
}

void read_row(const uint16_t *x, float *row, int64_t channels) {
  for (int64_t k = 0; k < channels; k++) {
    const uint32_t bits = static_cast<uint32_t>(x[k]) << 16;  // bf16 is the upper half of a float
    std::memcpy(row + k, &bits, sizeof bits);
  }
}

// Takes one head of `length` tokens in, and returns the largest z_ii; infinity where anything is not finite.
template <class T>
float read_head(Model &m, const T *x, int64_t row, int64_t length) {
  m.width = padded(length, W);
  for (int64_t i = 0; i < length; i++) read_row(x + i * row, m.rows + i * m.stride, m.channels);
  std::memset(m.rows + length * m.stride, 0, (m.width - length) * m.stride * sizeof(float));
  const float scale = LOG2E / std::sqrt(static_cast<float>(m.channels));
  Floats largest = {}, sum = {};
  for (int64_t i = 0; i < m.width; i += W) {
    Floats square = {};
    for (int64_t k0 = 0; k0 < m.channels; k0 += W) {
      Floats tile[W];
      for (int r = 0; r < W; r++) std::memcpy(tile + r, m.rows + (i + r) * m.stride + k0, sizeof(Floats));
      transpose(tile);
      for (int64_t k = k0; k < m.channels && k < k0 + W; k++) {
        at(m.columns + k * m.width + i) = scale * tile[k - k0];
        square += scale * tile[k - k0] * tile[k - k0];
      }
    }
    largest = square > largest ? square : largest;
    sum += square * 0.0f;  // NaN where one is not finite
  }
  float top = 0;
  for (int l = 0; l < W; l++) top = largest[l] > top ? largest[l] : top;
  return sum_of(sum) == 0 ? top : INFINITY;
}

float read_head(Model &m, const void *x, int64_t offset, int64_t row, bool bf16, int64_t length) {
  return bf16 ? read_head(m, static_cast<const uint16_t *>(x) + offset, row, length)
              : read_head(m, static_cast<const float *>(x) + offset, row, length);
}

// Sum of KL_i over the head's rows, and its gradient (up to the scale that `write` puts to it) in dx.
double head(Scratch &scratch, int64_t length, float largest_s, float largest_t, bool gradient) {
  Model &s = scratch.student, &t = scratch.teacher;
  float *dx = gradient ? scratch.dx : nullptr;
  const bool shared = largest_s <= 2 * HIGHEST && largest_t <= 2 * HIGHEST, keep = gradient && s.width <= KEPT;
  for (Model *m : {&s, &t}) {
    const float largest = m == &s ? largest_s : largest_t, shift = shared && largest > HIGHEST ? largest - HIGHEST : 0;
    for (int64_t j = 0; j < m->width; j++) m->bias[j] = j < length ? -shift : PADDED;
  }
  if (dx) std::memset(dx, 0, s.width * s.stride * sizeof(float));
  if (length == 1) return 0;  // a token's only relation is 1 in both, not 1 up to rounding
  if (!shared) return by_rows(s, t, dx, length);
  const double value = statistics(s, t, scratch.cross, length, keep);
  if (!dx) return value;
  for (float *sums : {s.sums, t.sums}) {
    for (int64_t i = 0; i < s.width; i++) sums[i] = i < length ? 1 / sums[i] : 0;
  }
  if (scratch.group == 4) add_gradient<4>(s, t, dx, length, keep);
  if (scratch.group == 6) add_gradient<6>(s, t, dx, length, keep);
  if (scratch.group == 8) add_gradient<8>(s, t, dx, length, keep);
  if (scratch.group == 12) add_gradient<12>(s, t, dx, length, keep);
  if (scratch.group == 16) add_gradient<16>(s, t, dx, length, keep);
  return value;
}

void write_row(const float *row, float *x, int64_t channels) { read_row(row, x, channels); }

void write_row(const float *row, uint16_t *x, int64_t channels) {
  for (int64_t k = 0; k < channels; k++) {
    uint32_t bits;
    std::memcpy(&bits, row + k, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
    x[k] = static_cast<uint16_t>(row[k] == row[k] ? rounded : 0x7fc0);
  }
}

template <class T>
void write_gradient(const Scratch &scratch, T *x, int64_t row, int64_t length, float scale) {
  const Model &s = scratch.student;
  for (int64_t i = 0; i < length; i += W) {
    for (int64_t k0 = 0; k0 < s.channels; k0 += W) {
      const int64_t channels = s.channels - k0 < W ? s.channels - k0 : W;
      Floats tile[W] = {};
      for (int64_t k = 0; k < channels; k++) tile[k] = scale * at(scratch.dx + (k0 + k) * s.width + i);
      transpose(tile);
      for (int64_t r = 0; r < W && i + r < length; r++) {
        write_row(reinterpret_cast<const float *>(tile + r), x + (i + r) * row + k0, channels);
      }
    }
  }
}

void run_head(const Job &job, Scratch &scratch, int64_t sequence, int64_t a) {
  const int64_t start = job.starts[sequence], length = job.lengths[sequence], d = job.student_channels;
  const float largest_s = read_head(scratch.student, job.student, start * job.student_row + a * d, job.student_row,
                                    job.student_bf16, length);
  const float largest_t = read_head(scratch.teacher, job.teacher, start * job.teacher_row + a * job.teacher_channels,
                                    job.teacher_row, job.teacher_bf16, length);
  const bool finite = largest_s < INFINITY && largest_t < INFINITY;
  const double divisor = static_cast<double>(job.heads) * length;
  const double value = finite ? head(scratch, length, largest_s, largest_t, job.gradient) : NAN;
  job.losses[sequence * job.heads + a] = value / divisor;
  if (!job.gradient) return;
  const float scale = finite ? static_cast<float>(1 / (divisor * std::sqrt(static_cast<double>(d)))) : NAN;
  const int64_t row = job.heads * d, offset = start * row + a * d;
  if (job.student_bf16) {
    write_gradient(scratch, static_cast<uint16_t *>(job.gradient) + offset, row, length, scale);
  } else {
    write_gradient(scratch, static_cast<float *>(job.gradient) + offset, row, length, scale);
  }
}

}  // namespace

// Works until no item is left; false where memory is short.
extern "C" bool relation_kl(Job *job) {
  Scratch scratch(*job);
  if (!scratch.memory) return false;
  const int64_t slices = (job->heads + job->heads_per_item - 1) / job->heads_per_item;
  for (;;) {
    const int64_t item = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (item >= job->sequences * slices) return true;
    const int64_t first = item % slices * job->heads_per_item;
    for (int64_t a = first; a < first + job->heads_per_item && a < job->heads; a++) {
      run_head(*job, scratch, item / slices, a);
    }
  }
}
