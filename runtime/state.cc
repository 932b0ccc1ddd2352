#include "runtime/state.h"

#include <algorithm>

namespace leat::runtime {
namespace {

constexpr size_t kCachedRowsMax = 1u << 20;

}  // namespace

Result<bool> State::Get(std::string_view key, std::string* value) const {
  if (const auto found = rows_.find(key); found != rows_.end()) {
    if (found->second.exists) *value = found->second.value;
    return found->second.exists;
  }
  LEAT_ASSIGN(const bool exists, database_->Get(eventstore::Family::kRows, key, value));
  Row& row = rows_[std::string(key)];
  row.exists = exists;
  if (exists) row.value = *value;
  return exists;
}

State::Rows::iterator State::Find(std::string_view key) {
  const auto found = rows_.find(key);
  return found != rows_.end() ? found : rows_.emplace(std::string(key), Row{}).first;
}

void State::MarkDirty(Rows::iterator at) {
  if (at->second.dirty) return;
  at->second.dirty = true;
  dirty_.push_back(&*at);
  dirty_bytes_ += at->first.size() + at->second.value.size() + 16;
}

void State::Put(std::string_view key, std::string_view value) {
  const auto at = Find(key);
  at->second.value = value;
  at->second.exists = true;
  MarkDirty(at);
}

void State::Delete(std::string_view key) {
  const auto at = Find(key);
  at->second.value.clear();
  at->second.exists = false;
  MarkDirty(at);
}

void State::PutUncached(std::string_view key, std::string_view value) {
  places_.push_back({uncached_.size(), static_cast<uint32_t>(key.size()),
                     static_cast<uint32_t>(value.size())});
  uncached_.append(key).append(value);
}

void State::Collect() {
  struct Write {
    std::string_view key;
    std::string_view value;
    bool exists;
  };
  std::vector<Write> writes;
  writes.reserve(dirty_.size() + places_.size());
  for (auto* entry : dirty_) {
    entry->second.dirty = false;
    writes.push_back({entry->first, entry->second.value, entry->second.exists});
  }
  for (const Place& place : places_) {
    const std::string_view key = std::string_view(uncached_).substr(place.offset, place.key_size);
    writes.push_back({key, {key.data() + place.key_size, place.value_size}, true});
  }
  // Stable: of two writes to one key the later one counts.
  std::stable_sort(writes.begin(), writes.end(),
                   [](const Write& a, const Write& b) { return a.key < b.key; });
  for (const Write& write : writes) {
    if (write.exists) {
      batch_.Put(eventstore::Family::kRows, write.key, write.value);
    } else {
      batch_.Delete(eventstore::Family::kRows, write.key);
    }
  }
  dirty_.clear();
  dirty_bytes_ = 0;
  uncached_.clear();
  places_.clear();
}

void State::Committed() {
  batch_.Clear();
  if (rows_.size() > kCachedRowsMax) rows_.clear();
}

void State::Reset() {
  rows_.clear();
  dirty_.clear();
  dirty_bytes_ = 0;
  uncached_.clear();
  places_.clear();
  batch_.Clear();
}

}  // namespace leat::runtime
