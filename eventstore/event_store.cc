#include "eventstore/event_store.h"

#include <future>
#include <set>
#include <unordered_map>

#include "core/bytes.h"
#include "core/hash.h"

namespace leat::eventstore {
namespace {

constexpr size_t kQueueBytesMax = 64u << 20;
constexpr size_t kEventOverheadBytes = 256;  // of a queued event besides its data, about

std::string KeyRow(const Append& append) { return append.stream + '\0' + append.idempotency_key; }

// What makes two appends the same: what is said, and not what a retry makes anew (ids, times, traces) nor who says it.
Hash ContentHash(const Append& append) {
  std::string content;
  for (const events::Event& event : append.events) {
    core::AppendString(event.view().type, &content);
    core::AppendString(event.view().subject, &content);
    core::AppendString(event.view().partitionkey, &content);
    core::AppendString(event.view().datacontenttype, &content);
    core::AppendString(event.view().data, &content);
    core::AppendVarint(event.view().extensions.size(), &content);
    for (const auto& [name, value] : event.view().extensions) {
      core::AppendString(name, &content);
      core::AppendString(value, &content);
    }
  }
  return core::Sha256(content);
}

std::string PackKey(const Hash& content, const Appended& appended) {
  std::string out(content.View());
  core::AppendVarint(appended.first_position, &out);
  core::AppendVarint(appended.first_version, &out);
  core::AppendVarint(appended.count, &out);
  return out;
}

bool UnpackKey(std::string_view bytes, std::string_view* content, Appended* appended) {
  core::ByteReader reader(bytes);
  return reader.TakeBytes(Hash::kSize, content) && reader.TakeVarint(&appended->first_position) &&
         reader.TakeVarint(&appended->first_version) && reader.TakeVarint(&appended->count);
}

size_t BytesOf(const std::vector<Append>& appends) {
  size_t bytes = 0;
  for (const Append& append : appends) {
    for (const events::Event& event : append.events) {
      bytes += event.view().data.size() + kEventOverheadBytes;
    }
  }
  return bytes;
}

}  // namespace

Result<std::unique_ptr<EventStore>> EventStore::Open(const EventStoreOptions& options) {
  std::unique_ptr<EventStore> store(new EventStore);
  LEAT_ASSIGN(store->database_, Database::Open(options.database));
  LEAT_ASSIGN(store->log_, Log::Open(store->database_.get(), options.log));
  store->writer_ = std::thread([raw = store.get()] { raw->WriteLoop(); });
  return store;
}

EventStore::~EventStore() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  if (writer_.joinable()) writer_.join();
}

void EventStore::AppendAsync(std::vector<Append> appends, Done done) {
  Request request{std::move(appends), std::move(done), 0};
  request.bytes = BytesOf(request.appends);
  bool first;
  {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return queue_bytes_ < kQueueBytesMax; });
    queue_bytes_ += request.bytes;
    first = queue_.empty();
    queue_.push_back(std::move(request));
  }
  if (first) work_.notify_one();
}

Result<std::vector<Appended>> EventStore::AppendAll(std::vector<Append> appends) {
  std::promise<Result<std::vector<Appended>>> promise;
  auto future = promise.get_future();
  AppendAsync(std::move(appends), [&](Result<std::vector<Appended>> result) {
    promise.set_value(std::move(result));
  });
  return future.get();
}

Result<Appended> EventStore::AppendOne(Append append) {
  std::vector<Append> appends;
  appends.push_back(std::move(append));
  LEAT_ASSIGN(const auto appended, AppendAll(std::move(appends)));
  return appended.front();
}

void EventStore::WriteLoop() {
  std::vector<Request> requests;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return !queue_.empty() || stopping_; });
      if (queue_.empty()) return;
      requests.swap(queue_);
      queue_bytes_ = 0;
    }
    room_.notify_all();
    Commit(&requests);
    requests.clear();
  }
}

Status EventStore::error() const {
  std::lock_guard lock(mutex_);
  return failed_;
}

// Group commit: all that queued while the disk was busy goes into one packed record and one synced write.
void EventStore::Commit(std::vector<Request>* requests) {
  std::vector<Result<std::vector<Appended>>> results;
  results.reserve(requests->size());
  if (auto status = CommitAll(*requests, &results); !status) {
    // Nothing of this commit is there, whatever was staged of it before.
    results.assign(requests->size(), std::unexpected(status.error()));
  }
  for (size_t i = 0; i < requests->size(); ++i) (*requests)[i].done(std::move(results[i]));
}

Status EventStore::CommitAll(const std::vector<Request>& requests,
                             std::vector<Result<std::vector<Appended>>>* results) {
  LEAT_TRY(error());
  LEAT_TRY(log_->CheckRoom());
  Batch batch(*database_);
  staged_keys_.clear();
  const uint64_t before = log_->NextPosition();
  for (const Request& request : requests) {
    const uint64_t staged = log_->NextPosition();
    results->push_back(Stage(request, &batch));
    if (!results->back() && log_->NextPosition() != staged) {  // half a request
      log_->Abandon();
      return std::unexpected(results->back().error());
    }
  }
  if (log_->NextPosition() == before) return {};
  log_->Seal(&batch);
  if (auto status = database_->Write(batch, true); !status) {
    std::lock_guard lock(mutex_);
    failed_ = std::unexpected(status.error().WithContext("the event store stopped"));
    return failed_;
  }
  log_->Publish();
  return {};
}

Result<std::vector<Appended>> EventStore::Stage(const Request& request, Batch* batch) {
  // Everything is checked before anything is added, so that a refusal leaves no trace.
  std::vector<Appended> out(request.appends.size());
  std::vector<std::string> key_values(request.appends.size());
  std::unordered_map<std::string_view, uint64_t> versions;
  std::set<std::string> keys;
  size_t repeated = 0;
  for (size_t i = 0; i < request.appends.size(); ++i) {
    const Append& append = request.appends[i];
    if (append.events.empty()) return Invalid("an append without events", "give at least one");
    if (append.idempotency_key.size() > kIdempotencyKeyBytesMax) {
      return Invalid("idempotency key is too long",
                     "at most " + std::to_string(kIdempotencyKeyBytesMax) + " bytes");
    }
    if (append.stream.empty() || append.stream.size() > kStreamBytesMax ||
        append.stream.find('\0') != std::string::npos) {
      return Invalid("\"" + append.stream.substr(0, 64) + "\" is not a stream name",
                     "1 to " + std::to_string(kStreamBytesMax) + " bytes, none of them zero");
    }
    for (const events::Event& event : append.events) LEAT_TRY(events::CheckLimits(event.view()));
    if (!append.idempotency_key.empty()) {
      const std::string row = KeyRow(append);
      if (!keys.insert(row).second) {
        return Invalid("idempotency key \"" + append.idempotency_key + "\" of stream " +
                           append.stream + " stands twice in one append",
                       "give each its own");
      }
      std::string stored;
      bool found = false;
      if (const auto staged = staged_keys_.find(row); staged != staged_keys_.end()) {
        stored = staged->second;
        found = true;
      } else {
        LEAT_ASSIGN(found, database_->Get(Family::kKeys, row, &stored));
      }
      if (found) {
        std::string_view content;
        if (!UnpackKey(stored, &content, &out[i])) {
          return Fail(ErrorClass::kCorrupt, "an idempotency key's row cannot be read");
        }
        if (content != ContentHash(append).View()) {
          return Fail(ErrorClass::kConflict,
                      "idempotency key \"" + append.idempotency_key + "\" of stream " +
                          append.stream + " was used with other content",
                      "use a new key for new content");
        }
        out[i].repeated = true;
        ++repeated;
        continue;
      }
    }
    auto at = versions.find(append.stream);
    if (at == versions.end()) {
      LEAT_ASSIGN(const uint64_t version, log_->StreamVersion(append.stream));
      at = versions.emplace(append.stream, version).first;
    }
    if (append.expected_version != kAnyVersion && append.expected_version != at->second) {
      return Fail(ErrorClass::kConflict,
                  "stream " + append.stream + " is at version " + std::to_string(at->second) +
                      ", not " + std::to_string(append.expected_version),
                  "read the stream again and decide anew");
    }
    out[i].first_version = at->second + 1;
    out[i].count = append.events.size();
    at->second += append.events.size();
  }
  if (repeated != 0 && repeated != request.appends.size()) {
    return Fail(ErrorClass::kConflict, "some of these appends were made before, and some were not",
                "repeat an atomic append as a whole");
  }
  if (repeated != 0) return out;
  for (size_t i = 0; i < request.appends.size(); ++i) {
    const Append& append = request.appends[i];
    out[i].first_position = log_->NextPosition();
    for (const events::Event& event : append.events) {
      LEAT_TRY(log_->Add(append.stream, event.view()));
    }
    if (!append.idempotency_key.empty()) {
      const std::string row = KeyRow(append);
      const std::string value = PackKey(ContentHash(append), out[i]);
      batch->Put(Family::kKeys, row, value);
      staged_keys_[row] = value;
    }
  }
  return out;
}

}  // namespace leat::eventstore
