#include "producers/ingest/external_sorter.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "producers/ingest/scratch_file.h"

namespace leat::ingest {
namespace {

constexpr size_t kChunkBytes = 4 << 20;
constexpr size_t kWriteBufferBytes = 1 << 20;
constexpr size_t kReadBufferBytes = 512 << 10;  // of each run in a merge
constexpr size_t kEntryBytes = 32;  // of an index entry, with what the vector's growth takes

static_assert(kRecordBytesMax + 4 <= kChunkBytes);

// On disk a record is its key (8 bytes), its length (4 bytes), both as this machine writes them,
// and itself.
constexpr size_t kRunHeadBytes = 12;

}  // namespace

struct ExternalSorter::Run {
  Run(const std::string& folder, const std::string& name, unsigned run_level)
      : file(folder, name, kWriteBufferBytes), level(run_level) {}

  Status Append(uint64_t key, std::string_view record) {
    char head[kRunHeadBytes];
    const auto size = static_cast<uint32_t>(record.size());
    std::memcpy(head, &key, sizeof key);
    std::memcpy(head + sizeof key, &size, sizeof size);
    LEAT_TRY(file.Append({head, sizeof head}));
    return file.Append(record);
  }

  ScratchFile file;
  unsigned level;  // how often its records have been merged
};

class ExternalSorter::MemoryCursor : public ExternalSorter::Cursor {
 public:
  explicit MemoryCursor(const ExternalSorter* sorter) : sorter_(sorter) {}

  Result<bool> Next(uint64_t* key, std::string_view* record) override {
    if (next_ == sorter_->entries_.size()) return false;
    const Entry& entry = sorter_->entries_[next_++];
    *key = entry.key;
    *record = sorter_->RecordAt(entry.position);
    return true;
  }

 private:
  const ExternalSorter* sorter_;
  size_t next_ = 0;
};

// Merges neighbouring runs; of equal keys the earlier run's come first.
class ExternalSorter::MergeCursor : public ExternalSorter::Cursor {
 public:
  explicit MergeCursor(std::span<const std::unique_ptr<Run>> runs) {
    for (const auto& run : runs) inputs_.push_back(Input{.run = run.get()});
  }

  Result<bool> Next(uint64_t* key, std::string_view* record) override {
    if (!started_) {
      LEAT_TRY(Start());
    } else if (!heap_.empty()) {
      LEAT_TRY(AdvanceTop());
    }
    if (heap_.empty()) return false;
    const Input& top = inputs_[heap_.front()];
    *key = top.key;
    *record = top.record;
    return true;
  }

 private:
  struct Input {
    const Run* run;
    uint64_t offset = 0;  // in the file, behind what the buffer holds
    std::vector<char> buffer{};
    size_t begin = 0;
    size_t end = 0;
    uint64_t key = 0;
    std::string_view record{};
  };

  // Has at least `size` bytes in the buffer, or fails; false at the end of the run.
  static Result<bool> Need(Input* input, size_t size) {
    if (input->end - input->begin >= size) return true;
    const uint64_t left = input->run->file.size() - input->offset;
    if (left == 0 && input->begin == input->end) return false;
    const size_t kept = input->end - input->begin;
    if (kept > 0) std::memmove(input->buffer.data(), &input->buffer[input->begin], kept);
    if (input->buffer.size() < size) input->buffer.resize(std::max(size, kReadBufferBytes));
    const auto step = static_cast<size_t>(std::min<uint64_t>(left, input->buffer.size() - kept));
    LEAT_TRY(input->run->file.ReadAt(input->offset, input->buffer.data() + kept, step));
    input->offset += step;
    input->begin = 0;
    input->end = kept + step;
    LEAT_ASSERT(input->end >= size);
    return true;
  }

  static Result<bool> Advance(Input* input) {
    LEAT_ASSIGN(const bool more, Need(input, kRunHeadBytes));
    if (!more) return false;
    uint32_t size;
    std::memcpy(&size, input->buffer.data() + input->begin + sizeof input->key, sizeof size);
    LEAT_TRY(Need(input, kRunHeadBytes + size));
    std::memcpy(&input->key, input->buffer.data() + input->begin, sizeof input->key);
    input->record = {input->buffer.data() + input->begin + kRunHeadBytes, size};
    input->begin += kRunHeadBytes + size;
    return true;
  }

  bool Before(uint32_t a, uint32_t b) const {
    const uint64_t key_a = inputs_[a].key;
    const uint64_t key_b = inputs_[b].key;
    return key_a != key_b ? key_a < key_b : a < b;
  }

  Status Start() {
    started_ = true;
    for (uint32_t i = 0; i < inputs_.size(); ++i) {
      LEAT_ASSIGN(const bool more, Advance(&inputs_[i]));
      if (more) heap_.push_back(i);
    }
    std::make_heap(heap_.begin(), heap_.end(),
                   [this](uint32_t a, uint32_t b) { return Before(b, a); });
    return {};
  }

  Status AdvanceTop() {
    LEAT_ASSIGN(const bool more, Advance(&inputs_[heap_.front()]));
    if (!more) {
      heap_.front() = heap_.back();
      heap_.pop_back();
    }
    // Sift down: mostly the same run stays on top, after two comparisons.
    for (size_t at = 0;;) {
      size_t child = 2 * at + 1;
      if (child >= heap_.size()) return {};
      if (child + 1 < heap_.size() && Before(heap_[child + 1], heap_[child])) ++child;
      if (!Before(heap_[child], heap_[at])) return {};
      std::swap(heap_[at], heap_[child]);
      at = child;
    }
  }

  std::vector<Input> inputs_;
  std::vector<uint32_t> heap_;  // of inputs that have a record, the first in order on top
  bool started_ = false;
};

ExternalSorter::ExternalSorter(Options options) : options_(std::move(options)) {
  LEAT_ASSERT(options_.merge_runs_max >= 2);
}

ExternalSorter::~ExternalSorter() = default;

Status ExternalSorter::Add(uint64_t key, std::string_view record) {
  LEAT_ASSERT(!finished_ && record.size() <= kRecordBytesMax);
  const size_t need = sizeof(uint32_t) + record.size();
  const uint64_t held = record_bytes_ + entries_.size() * kEntryBytes;
  if (!entries_.empty() && held + need + kEntryBytes > options_.memory_bytes) LEAT_TRY(Spill());
  if (chunks_.empty() || chunk_used_ + need > kChunkBytes) {
    if (!entries_.empty()) ++chunk_;
    if (chunk_ == chunks_.size()) chunks_.emplace_back(new char[kChunkBytes]);
    chunk_used_ = 0;
  }
  char* to = chunks_[chunk_].get() + chunk_used_;
  const auto size = static_cast<uint32_t>(record.size());
  std::memcpy(to, &size, sizeof size);
  std::memcpy(to + sizeof size, record.data(), record.size());
  entries_.push_back({key, static_cast<uint64_t>(chunk_) << 32 | chunk_used_});
  chunk_used_ += need;
  record_bytes_ += need;
  ++count_;
  return {};
}

std::string_view ExternalSorter::RecordAt(uint64_t position) const {
  const char* at = chunks_[position >> 32].get() + static_cast<uint32_t>(position);
  uint32_t size;
  std::memcpy(&size, at, sizeof size);
  return {at + sizeof size, size};
}

void ExternalSorter::SortEntries() {
  const auto before = [](const Entry& a, const Entry& b) {
    return a.key != b.key ? a.key < b.key : a.position < b.position;
  };
  if (!std::is_sorted(entries_.begin(), entries_.end(), before)) {
    std::sort(entries_.begin(), entries_.end(), before);
  }
}

Status ExternalSorter::Spill() {
  SortEntries();
  auto run = std::make_unique<Run>(options_.scratch_dir, "run-" + std::to_string(runs_made_++), 0);
  for (const Entry& entry : entries_) {
    LEAT_TRY(run->Append(entry.key, RecordAt(entry.position)));
  }
  LEAT_TRY(run->file.Flush());
  spilled_bytes_ += run->file.size();
  runs_.push_back(std::move(run));
  entries_.clear();
  record_bytes_ = 0;
  chunk_ = 0;
  chunk_used_ = 0;
  // Merge runs of one level once there are enough, so that a record is written once per level and
  // the open files stay few.
  for (;;) {
    const unsigned level = runs_.back()->level;
    const auto same =
        static_cast<size_t>(std::find_if(runs_.rbegin(), runs_.rend(),
                                         [&](const auto& other) { return other->level != level; }) -
                            runs_.rbegin());
    if (same < options_.merge_runs_max) return {};
    LEAT_TRY(MergeLastRuns(same));
  }
}

Status ExternalSorter::MergeLastRuns(size_t count) {
  LEAT_ASSERT(count >= 2 && count <= runs_.size());
  const std::span<const std::unique_ptr<Run>> inputs(runs_.end() - static_cast<ptrdiff_t>(count),
                                                     runs_.end());
  auto merged = std::make_unique<Run>(options_.scratch_dir, "run-" + std::to_string(runs_made_++),
                                      inputs.front()->level + 1);
  MergeCursor cursor(inputs);
  uint64_t key;
  std::string_view record;
  for (;;) {
    LEAT_ASSIGN(const bool more, cursor.Next(&key, &record));
    if (!more) break;
    LEAT_TRY(merged->Append(key, record));
  }
  LEAT_TRY(merged->file.Flush());
  spilled_bytes_ += merged->file.size();
  runs_.resize(runs_.size() - count);
  runs_.push_back(std::move(merged));
  return {};
}

Status ExternalSorter::Finish() {
  LEAT_ASSERT(!finished_);
  finished_ = true;
  if (runs_.empty()) {
    SortEntries();
    return {};
  }
  if (!entries_.empty()) LEAT_TRY(Spill());
  std::vector<Entry>().swap(entries_);
  chunks_.clear();
  while (runs_.size() > options_.merge_runs_max) {  // the last runs are the smallest
    LEAT_TRY(MergeLastRuns(
        std::min(options_.merge_runs_max, runs_.size() - options_.merge_runs_max + 1)));
  }
  return {};
}

std::unique_ptr<ExternalSorter::Cursor> ExternalSorter::Read() const {
  LEAT_ASSERT(finished_);
  if (runs_.empty()) return std::make_unique<MemoryCursor>(this);
  return std::make_unique<MergeCursor>(std::span<const std::unique_ptr<Run>>(runs_));
}

}  // namespace leat::ingest
