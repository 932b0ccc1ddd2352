#include "runtime/state.h"

#include <algorithm>

namespace leat::runtime {
namespace {

constexpr size_t kGenerationRowsMax = 1u << 20;

}  // namespace

State::Row& State::Touch(std::string_view key, bool* found) const {
  if (const auto at = young_.find(key); at != young_.end()) {
    *found = true;
    return at->second;
  }
  if (const auto at = old_.find(key); at != old_.end()) {
    *found = true;
    return young_.insert(old_.extract(at)).position->second;
  }
  *found = false;
  return young_.emplace(std::string(key), Row{}).first->second;
}

Result<bool> State::Get(std::string_view key, std::string* value) const {
  bool found;
  Row& row = Touch(key, &found);
  if (!found) {
    auto exists = database_->Get(eventstore::Family::kRows, key, &row.value);
    if (!exists) {
      young_.erase(std::string(key));
      return exists;
    }
    row.exists = *exists;
  }
  if (row.exists) *value = row.value;
  return row.exists;
}

void State::MarkDirty(std::string_view key, Row* row) {
  if (row->dirty) return;
  row->dirty = true;
  dirty_.emplace_back(std::string(key), row);
  dirty_bytes_ += key.size() + row->value.size() + 16;
}

void State::Put(std::string_view key, std::string_view value) {
  bool found;
  Row& row = Touch(key, &found);
  row.value = value;
  row.exists = true;
  MarkDirty(key, &row);
}

void State::Delete(std::string_view key) {
  bool found;
  Row& row = Touch(key, &found);
  row.value.clear();
  row.exists = false;
  MarkDirty(key, &row);
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
  for (const auto& [key, row] : dirty_) {
    row->dirty = false;
    writes.push_back({key, row->value, row->exists});
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
  if (young_.size() > kGenerationRowsMax) {
    old_ = std::move(young_);
    young_ = Rows();
  }
}

void State::Reset() {
  young_.clear();
  old_.clear();
  dirty_.clear();
  dirty_bytes_ = 0;
  uncached_.clear();
  places_.clear();
  batch_.Clear();
}

}  // namespace leat::runtime
