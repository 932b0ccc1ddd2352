#include "runtime/state.h"

#include <algorithm>
#include <array>

namespace leat::runtime {
namespace {

constexpr size_t kGenerationRowsMax = 1u << 20;

struct Write {
  uint64_t head;  // sorts as the key does, as far as it goes
  std::string_view key;
  std::string_view value;
  bool exists;
};

// By key; stable: of two writes to one key the later one counts. Keys of one kind (their first byte)
// begin with the same chain and asset, so what tells two of them apart lies behind that: it is put
// into one number, and few comparisons have to look at the keys, which lie all over the memory.
void Sort(std::vector<Write>* writes) {
  struct Kind {
    std::string_view common;  // what all of its keys begin with
    bool seen = false;
  };
  std::array<Kind, 256> kinds;
  const auto kind_of = [&](std::string_view key) -> Kind& {
    return kinds[key.empty() ? 0 : static_cast<uint8_t>(key.front())];
  };
  for (const Write& write : *writes) {
    Kind& kind = kind_of(write.key);
    if (!kind.seen) kind = {write.key, true};
    if (write.key.starts_with(kind.common)) continue;
    const auto end = std::mismatch(kind.common.begin(), kind.common.end(), write.key.begin(),
                                   write.key.end());
    kind.common = {kind.common.begin(), end.first};
  }
  constexpr size_t kHeadBytes = 7;  // behind the kind
  for (Write& write : *writes) {
    const std::string_view key = write.key;
    write.head = key.empty() ? 0 : static_cast<uint8_t>(key.front());
    const size_t common = kind_of(key).common.size();
    for (size_t i = common; i < common + kHeadBytes; ++i) {
      write.head = write.head << 8 | (i < key.size() ? static_cast<uint8_t>(key[i]) : 0);
    }
  }
  std::stable_sort(writes->begin(), writes->end(), [](const Write& a, const Write& b) {
    return a.head != b.head ? a.head < b.head : a.key < b.key;
  });
}

}  // namespace

State::Rows::value_type& State::Touch(std::string_view key, bool* found) const {
  if (const auto at = young_.find(key); at != young_.end()) {
    *found = true;
    return *at;
  }
  if (const auto at = old_.find(key); at != old_.end()) {
    *found = true;
    return *young_.insert(old_.extract(at)).position;
  }
  *found = false;
  return *young_.emplace(std::string(key), Row{}).first;
}

Result<bool> State::Get(std::string_view key, std::string* value) const {
  bool found;
  Row& row = Touch(key, &found).second;
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

void State::MarkDirty(Rows::value_type* entry) {
  auto& [key, row] = *entry;
  if (row.dirty) return;
  row.dirty = true;
  dirty_.push_back(entry);
  dirty_bytes_ += key.size() + row.value.size() + 16;
}

void State::Put(std::string_view key, std::string_view value) {
  bool found;
  auto& entry = Touch(key, &found);
  entry.second.value = value;
  entry.second.exists = true;
  MarkDirty(&entry);
}

void State::Delete(std::string_view key) {
  bool found;
  auto& entry = Touch(key, &found);
  entry.second.value.clear();
  entry.second.exists = false;
  MarkDirty(&entry);
}

void State::PutUncached(std::string_view key, std::string_view value) {
  places_.push_back({uncached_.size(), static_cast<uint32_t>(key.size()),
                     static_cast<uint32_t>(value.size())});
  uncached_.append(key).append(value);
}

void State::Collect() {
  std::vector<Write> writes;
  writes.reserve(dirty_.size() + places_.size());
  for (Rows::value_type* entry : dirty_) {
    entry->second.dirty = false;
    writes.push_back({0, entry->first, entry->second.value, entry->second.exists});
  }
  for (const Place& place : places_) {
    const std::string_view key = std::string_view(uncached_).substr(place.offset, place.key_size);
    writes.push_back({0, key, {key.data() + place.key_size, place.value_size}, true});
  }
  Sort(&writes);
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
