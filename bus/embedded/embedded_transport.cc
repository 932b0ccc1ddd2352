#include "bus/embedded/embedded_transport.h"

#include <algorithm>
#include <condition_variable>

#include "bus/group.h"
#include "bus/partitioner.h"
#include "core/bytes.h"

namespace leat::bus {
namespace {

constexpr uint32_t kPartitionsMax = 1024;
constexpr std::string_view kTopicRow = "topic/";

std::string StreamOf(std::string_view topic, uint32_t partition) {
  return std::string(topic) + "/" + std::to_string(partition);
}

// Moves a cursor's event into the batch; how much more memory the batch holds for it.
Result<size_t> Take(const eventstore::LogEvent& event, uint64_t offset,
                    const eventstore::LogCursor& cursor, MessageBatch* batch) {
  if (event.purged) return size_t{0};
  LEAT_ASSIGN(auto view, event.Decode());
  batch->messages.push_back({offset, std::move(view), {}});
  if (!batch->pins.empty() && batch->pins.back() == cursor.pin()) return size_t{0};
  batch->pins.push_back(cursor.pin());
  return cursor.pin()->size();
}

// A mounted log: offsets are its positions.
class LogSubscription final : public Subscription {
 public:
  LogSubscription(const eventstore::Log* log, uint64_t offset)
      : log_(log), cursor_(log->Read(offset)) {}

  Status Poll(const PollLimits& limits, MessageBatch* batch) override {
    batch->Clear();
    if (!log_->WaitFor(cursor_.position(), limits.timeout)) return {};
    eventstore::LogEvent event;
    size_t bytes = 0;
    while (batch->messages.empty() ||
           (batch->messages.size() < limits.messages_max && bytes < limits.bytes_max)) {
      LEAT_ASSIGN(const bool more, cursor_.Next(&event));
      if (!more) break;
      LEAT_ASSIGN(const size_t taken, Take(event, event.position, cursor_, batch));
      bytes += taken;
    }
    return {};
  }
  void Seek(uint64_t offset) override { cursor_.Seek(offset); }
  void Wake() override { log_->Wake(); }

 private:
  const eventstore::Log* log_;
  eventstore::LogCursor cursor_;
};

// A partition of the shared store: offsets are one less than its stream's versions.
class StreamSubscription final : public Subscription {
 public:
  StreamSubscription(const eventstore::Log* log, std::string stream, uint64_t offset)
      : log_(log), stream_(std::move(stream)), offset_(offset), cursor_(log->Read(0)) {}

  Status Poll(const PollLimits& limits, MessageBatch* batch) override {
    batch->Clear();
    const auto deadline = std::chrono::steady_clock::now() + limits.timeout;
    std::vector<uint64_t> positions;
    for (;;) {
      // The size is read first: what grows after it wakes the wait below.
      const uint64_t size = log_->size();
      // No event has the last version there could be: beyond the end, and not at the beginning again.
      const uint64_t version = offset_ == UINT64_MAX ? UINT64_MAX : offset_ + 1;
      LEAT_ASSIGN(positions, log_->StreamPositions(stream_, version,
                                                   std::max<size_t>(limits.messages_max, 1)));
      if (!positions.empty()) break;
      // Rounded up: a wait of 1 ms is not one of nothing.
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0 || !log_->WaitFor(size, left)) return {};
    }
    eventstore::LogEvent event;
    size_t bytes = 0;
    for (const uint64_t position : positions) {
      if (!batch->messages.empty() && bytes >= limits.bytes_max) break;
      cursor_.Seek(position);
      LEAT_ASSIGN(const bool found, cursor_.Next(&event));
      LEAT_ASSERT(found && event.position == position);
      LEAT_ASSIGN(const size_t taken, Take(event, offset_, cursor_, batch));
      bytes += taken;
      ++offset_;
    }
    return {};
  }
  void Seek(uint64_t offset) override { offset_ = offset; }
  void Wake() override { log_->Wake(); }

 private:
  const eventstore::Log* log_;
  const std::string stream_;
  uint64_t offset_;
  eventstore::LogCursor cursor_;
};

}  // namespace

struct EmbeddedTransport::Group {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> members;  // guarded by mutex
  std::set<uint32_t> partitions;
};

class EmbeddedTransport::GroupMembership final : public Membership {
 public:
  GroupMembership(std::shared_ptr<Group> group, std::string_view instance)
      : group_(std::move(group)), instance_(instance) {}
  ~GroupMembership() override {
    {
      std::lock_guard lock(group_->mutex);
      std::erase(group_->members, instance_);
    }
    group_->changed.notify_all();
  }

  Result<Share> Poll(std::chrono::milliseconds timeout) override {
    std::unique_lock lock(group_->mutex);
    const auto holds = [&] { return group_->members.front() == instance_; };
    group_->changed.wait_for(lock, timeout, [&] { return woken_ || holds() != told_; });
    woken_ = false;
    told_ = holds();
    Share share;
    if (told_) share.held = group_->partitions;
    return share;
  }
  Status Release(uint32_t partition) override {
    return NotToBeReleased(partition);
  }
  Status Commit(uint32_t, uint64_t) override { return {}; }  // nobody would see it
  void Wake() override {
    {
      std::lock_guard lock(group_->mutex);
      woken_ = true;
    }
    group_->changed.notify_all();
  }

 private:
  const std::shared_ptr<Group> group_;
  const std::string instance_;
  bool told_ = false;
  bool woken_ = false;  // guarded by the group's mutex
};

Result<std::unique_ptr<EmbeddedTransport>> EmbeddedTransport::Open(const std::string& path) {
  std::unique_ptr<EmbeddedTransport> transport(new EmbeddedTransport);
  eventstore::EventStoreOptions options;
  options.database.path = path;
  options.log.whole = true;  // a message comes out as it went in
  LEAT_ASSIGN(transport->store_, eventstore::EventStore::Open(options));
  const auto rows = transport->store_->database().NewIterator(eventstore::Family::kRows);
  for (rows->Seek(kTopicRow); rows->Valid() && rows->key().starts_with(kTopicRow); rows->Next()) {
    core::ByteReader reader(rows->value());
    uint64_t partitions;
    std::string_view owner;
    if (!reader.TakeVarint(&partitions) || !reader.TakeString(&owner)) {
      return Fail(ErrorClass::kCorrupt, "the topic list cannot be read");
    }
    Topic& topic = transport->topics_[std::string(rows->key().substr(kTopicRow.size()))];
    topic.partitions = static_cast<uint32_t>(partitions);
    topic.owner = owner;
    transport->partitions_ += topic.partitions;
  }
  LEAT_TRY(rows->status());
  return transport;
}

EmbeddedTransport::~EmbeddedTransport() = default;

Status EmbeddedTransport::VerifyFiles() const { return store_->database().VerifyChecksums(); }

Features EmbeddedTransport::features() const {
  Features features;
  features.name = "embedded";
  features.groups_share = false;
  features.topics_max = kTopicsMax;
  features.retention = false;
  return features;
}

Status EmbeddedTransport::Mount(std::string_view topic, uint32_t partition, std::string_view owner,
                                const eventstore::Log* log) {
  LEAT_TRY(events::CheckTopicName(topic));
  std::lock_guard lock(mutex_);
  const auto found = topics_.find(topic);
  const uint32_t before = found == topics_.end() ? 0 : found->second.partitions;
  const uint32_t more = partition < before ? 0 : partition + 1 - before;
  if (more > 0) LEAT_TRY(CheckCount(found == topics_.end() ? 1 : 0, more));
  Topic& entry = topics_[std::string(topic)];
  const bool stored = entry.partitions != 0 && entry.mounted.empty();
  if (stored || (!entry.owner.empty() && entry.owner != owner)) {
    return Fail(ErrorClass::kConflict, "topic " + std::string(topic) + " exists and is not mounted",
                "delete the data folder's bus, or keep its setting");
  }
  if (const auto other = entry.mounted.find(partition);
      other != entry.mounted.end() && other->second != log) {
    return Fail(ErrorClass::kConflict, "partition " + StreamOf(topic, partition) +
                                           " is mounted already");
  }
  entry.owner = owner;
  entry.mounted[partition] = log;
  entry.partitions += more;
  partitions_ += more;
  return {};
}

Status EmbeddedTransport::CheckCount(uint32_t topics, uint32_t partitions) const {
  const bool topic_fits = topics_.size() + topics <= kTopicsMax;
  if (topic_fits && uint64_t{partitions_} + partitions <= kPartitionsTotalMax) return {};
  return Fail(ErrorClass::kExhausted,
              "there are " + std::to_string(topics_.size()) + " topics with " +
                  std::to_string(partitions_) + " partitions already",
              "at most " + std::to_string(kTopicsMax) + " topics and " +
                  std::to_string(kPartitionsTotalMax) +
                  " partitions: use the key, not the topic, to tell things apart");
}

void EmbeddedTransport::Unmount(std::string_view topic, uint32_t partition) {
  std::lock_guard lock(mutex_);
  const auto found = topics_.find(topic);
  if (found == topics_.end()) return;
  found->second.mounted.erase(partition);
  if (!found->second.mounted.empty()) return;
  partitions_ -= found->second.partitions;
  topics_.erase(found);
}

Status EmbeddedTransport::CreateTopic(std::string_view topic, uint32_t partitions,
                                      const TopicOptions& options) {
  const std::string_view owner = options.owner;
  LEAT_TRY(events::CheckTopicName(topic));
  if (partitions == 0 || partitions > kPartitionsMax) {
    return Invalid("topic " + std::string(topic) + " with " + std::to_string(partitions) +
                       " partitions",
                   "1 to " + std::to_string(kPartitionsMax));
  }
  std::lock_guard lock(mutex_);
  if (const auto found = topics_.find(topic); found != topics_.end()) {
    if (found->second.partitions == partitions && found->second.owner == owner) return {};
    return Fail(ErrorClass::kConflict,
                "topic " + std::string(topic) + " has " +
                    std::to_string(found->second.partitions) + " partitions" +
                    (found->second.owner.empty() ? "" : " and belongs to " + found->second.owner),
                "name another topic");
  }
  LEAT_TRY(CheckCount(1, partitions));
  LEAT_TRY(store_->error());
  LEAT_TRY(store_->database().CheckRoom());
  std::string value;
  core::AppendVarint(partitions, &value);
  core::AppendString(owner, &value);
  eventstore::Batch batch(store_->database());
  batch.Put(eventstore::Family::kRows, std::string(kTopicRow) + std::string(topic), value);
  LEAT_TRY(store_->database().Write(batch, true));
  Topic& entry = topics_[std::string(topic)];
  entry.partitions = partitions;
  entry.owner = owner;
  partitions_ += partitions;
  return {};
}

Result<std::vector<TopicInfo>> EmbeddedTransport::Topics() {
  std::lock_guard lock(mutex_);
  std::vector<TopicInfo> out;
  for (const auto& [name, topic] : topics_) out.push_back({name, topic.partitions, topic.owner});
  return out;
}

Result<EmbeddedTransport::Topic> EmbeddedTransport::Find(std::string_view topic,
                                                         uint32_t partition) const {
  std::lock_guard lock(mutex_);
  const auto found = topics_.find(topic);
  if (found == topics_.end()) {
    return Fail(ErrorClass::kNotFound, "there is no topic " + std::string(topic),
                "see `leat topics`");
  }
  if (partition >= found->second.partitions) {
    return Fail(ErrorClass::kNotFound, "topic " + std::string(topic) + " has no partition " +
                                           std::to_string(partition),
                "it has " + std::to_string(found->second.partitions));
  }
  return found->second;
}

Result<std::unique_ptr<Membership>> EmbeddedTransport::Join(std::string_view topic,
                                                            std::string_view group,
                                                            std::string_view instance) {
  LEAT_TRY(CheckGroup(topic, group, instance));
  LEAT_ASSIGN(const Topic entry, Find(topic, 0));
  std::shared_ptr<Group> joined;
  {
    std::lock_guard lock(mutex_);
    auto& known = groups_[std::string(topic) + "/" + std::string(group)];
    if (known == nullptr) known = std::make_shared<Group>();
    joined = known;
  }
  std::lock_guard lock(joined->mutex);
  auto& members = joined->members;
  if (std::find(members.begin(), members.end(), instance) != members.end()) {
    return SameInstance(group, instance);
  }
  members.emplace_back(instance);
  for (uint32_t i = 0; i < entry.partitions; ++i) joined->partitions.insert(i);
  return std::make_unique<GroupMembership>(joined, instance);
}

Result<std::unique_ptr<Subscription>> EmbeddedTransport::Subscribe(std::string_view topic,
                                                                   uint32_t partition,
                                                                   uint64_t offset) {
  LEAT_ASSIGN(const Topic entry, Find(topic, partition));
  if (!entry.mounted.empty()) {
    const auto log = entry.mounted.find(partition);
    if (log == entry.mounted.end()) {
      return Fail(ErrorClass::kUnavailable, "partition " + StreamOf(topic, partition) +
                                                " is not mounted");
    }
    return std::make_unique<LogSubscription>(log->second, offset);
  }
  return std::make_unique<StreamSubscription>(&store_->log(), StreamOf(topic, partition), offset);
}

Result<PartitionEnd> EmbeddedTransport::End(std::string_view topic, uint32_t partition) {
  LEAT_ASSIGN(const Topic entry, Find(topic, partition));
  if (const auto log = entry.mounted.find(partition); log != entry.mounted.end()) {
    return PartitionEnd{log->second->size(), log->second->incarnation()};
  }
  LEAT_ASSIGN(const uint64_t version,
              store_->log().PublishedVersion(StreamOf(topic, partition)));
  return PartitionEnd{version, store_->log().incarnation()};
}

Result<uint64_t> EmbeddedTransport::OffsetAt(std::string_view topic, uint32_t partition,
                                             int64_t time_us) {
  LEAT_ASSIGN(const Topic entry, Find(topic, partition));
  LEAT_ASSIGN(const PartitionEnd end, End(topic, partition));
  const auto mounted = entry.mounted.find(partition);
  const eventstore::Log& log = mounted == entry.mounted.end() ? store_->log() : *mounted->second;
  auto cursor = log.Read(0);
  eventstore::LogEvent event;
  // Commits are in the order of their times.
  uint64_t begin = 0, behind = end.offset;
  while (begin < behind) {
    const uint64_t middle = begin + (behind - begin) / 2;
    uint64_t position = middle;
    if (mounted == entry.mounted.end()) {
      LEAT_ASSIGN(const auto found, log.StreamPositions(StreamOf(topic, partition), middle + 1, 1));
      LEAT_ASSERT(!found.empty());
      position = found.front();
    }
    cursor.Seek(position);
    LEAT_ASSIGN(const bool found, cursor.Next(&event));
    LEAT_ASSERT(found);
    if (event.commit_time_us < time_us) {
      begin = middle + 1;
    } else {
      behind = middle;
    }
  }
  return begin;
}

Result<std::vector<events::Position>> EmbeddedTransport::Publish(
    std::string_view topic, const std::vector<events::Event>& events) {
  LEAT_ASSIGN(const Topic entry, Find(topic, 0));
  if (!entry.owner.empty()) {
    return Fail(ErrorClass::kConflict,
                "topic " + std::string(topic) + " is written only by " + entry.owner,
                "publish to a topic of your own");
  }
  // One atomic append, a part for each partition touched.
  std::map<uint32_t, eventstore::Append> parts;
  std::vector<std::pair<uint32_t, size_t>> places;
  for (const events::Event& event : events) {
    const uint32_t partition = PartitionOf(KeyOf(event.view()), entry.partitions);
    eventstore::Append& part = parts[partition];
    part.stream = StreamOf(topic, partition);
    places.emplace_back(partition, part.events.size());
    part.events.push_back(event);
  }
  if (events.empty()) return std::vector<events::Position>{};
  std::vector<eventstore::Append> appends;
  std::map<uint32_t, size_t> index_of;
  for (auto& [partition, part] : parts) {
    index_of[partition] = appends.size();
    appends.push_back(std::move(part));
  }
  LEAT_ASSIGN(const auto appended, store_->AppendAll(std::move(appends)));
  std::vector<events::Position> out;
  for (const auto& [partition, i] : places) {
    out.push_back({std::string(topic), partition,
                   appended[index_of[partition]].first_version - 1 + i,
                   store_->log().incarnation()});
  }
  return out;
}

Status EmbeddedTransport::PublishTo(std::string_view topic, uint32_t partition,
                                    const std::vector<events::Event>& events) {
  LEAT_ASSIGN(const Topic entry, Find(topic, partition));
  if (!entry.mounted.empty()) {
    return Fail(ErrorClass::kConflict, "topic " + std::string(topic) + " is a mounted log");
  }
  if (events.empty()) return {};
  eventstore::Append append;
  append.stream = StreamOf(topic, partition);
  append.events = events;
  LEAT_TRY(store_->AppendOne(std::move(append)));
  return {};
}

}  // namespace leat::bus
