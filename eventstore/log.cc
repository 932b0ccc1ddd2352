#include "eventstore/log.h"

#include <algorithm>
#include <unordered_map>

#include "core/bytes.h"
#include "core/hash.h"

namespace leat::eventstore {
namespace {

constexpr uint8_t kRecordVersion = 1;
constexpr uint8_t kFlagContinues = 1;  // the next record is of the same commit
constexpr uint8_t kFlagWhole = 2;      // envelopes are complete: nothing is filled in from their entries
constexpr uint8_t kFlagsKnown = kFlagContinues | kFlagWhole;
constexpr uint8_t kEntryEvent = 0;
constexpr uint8_t kEntryPurged = 1;
// Version, checksum of all that follows it, flags.
constexpr size_t kChecksumAt = 1;
constexpr size_t kFlagsAt = kChecksumAt + 8;
constexpr size_t kFixedHeaderBytes = kFlagsAt + 1;

constexpr std::string_view kIdentityKey = "log/identity";
constexpr std::string_view kTreeKey = "log/tree";
constexpr uint64_t kTreeCheckpointEvents = 8192;
constexpr size_t kRecentBytesMax = 16u << 20;

std::string PositionKey(uint64_t position) {
  std::string key;
  core::AppendBigEndian64(position, &key);
  return key;
}

struct RecordHeader {
  uint8_t flags = 0;
  uint64_t count = 0;
  int64_t commit_time_us = 0;
  uint64_t tree_size = 0;
  Hash root;
  std::string_view source;
  std::string_view entries;
};

std::unexpected<Error> BadRecord(uint64_t position, std::string_view what) {
  return Fail(ErrorClass::kCorrupt,
              "log record at position " + std::to_string(position) + " " + std::string(what),
              "restore the data folder from a backup, or rebuild it from its topic");
}

Result<RecordHeader> ParseRecord(uint64_t first, std::string_view bytes) {
  core::ByteReader reader(bytes);
  uint8_t version;
  RecordHeader header;
  uint64_t checksum, time;
  if (!reader.TakeByte(&version) || !reader.TakeBigEndian64(&checksum)) {
    return BadRecord(first, "is cut short");
  }
  if (version != kRecordVersion) {
    return Fail(ErrorClass::kUnsupported,
                "log record at position " + std::to_string(first) + " has format " +
                    std::to_string(version),
                "use a newer leat");
  }
  if (core::Checksum64(reader.Rest()) != checksum) return BadRecord(first, "has a wrong checksum");
  std::string_view root;
  if (!reader.TakeByte(&header.flags) || !reader.TakeVarint(&header.count) ||
      !reader.TakeVarint(&time) || !reader.TakeVarint(&header.tree_size) ||
      !reader.TakeBytes(Hash::kSize, &root) ||
      !reader.TakeString(&header.source) || header.tree_size != first + header.count) {
    return BadRecord(first, "has a bad header");
  }
  if ((header.flags & ~kFlagsKnown) != 0) {
    return Fail(ErrorClass::kUnsupported,
                "log record at position " + std::to_string(first) + " has flags of a newer format",
                "use a newer leat");
  }
  header.commit_time_us = static_cast<int64_t>(time);
  header.root = Hash::From(root);
  header.entries = reader.Rest();
  return header;
}

// The position in a record's key.
Result<uint64_t> FirstOf(const Iterator& iterator) {
  if (iterator.key().size() != sizeof(uint64_t)) {
    return Fail(ErrorClass::kCorrupt, "the log holds a row that is no record",
                "restore the data folder from a backup");
  }
  return core::LoadBigEndian64(iterator.key().data());
}

bool ParseEntry(std::string_view entry, LogEvent* event) {
  core::ByteReader reader(entry);
  uint8_t kind;
  if (!reader.TakeByte(&kind) || kind > kEntryPurged) return false;
  event->purged = kind == kEntryPurged;
  event->stream = {};
  event->version = 0;
  if (!event->purged &&
      (!reader.TakeString(&event->stream) || !reader.TakeVarint(&event->version))) {
    return false;
  }
  event->envelope = reader.Rest();
  return !event->purged || event->envelope.size() == Hash::kSize;
}

// What an entry's leaf covers besides the entry: the facts that its record states once for all of them.
std::string LeafContext(int64_t commit_time_us, std::string_view source) {
  std::string context;
  core::AppendVarint(static_cast<uint64_t>(commit_time_us), &context);
  core::AppendString(source, &context);
  return context;
}

Hash LeafOf(std::string_view entry, const LogEvent& event, std::string_view context) {
  return event.purged ? Hash::From(event.envelope) : LeafHash(context, entry);
}

}  // namespace

Result<events::EventView> LogEvent::Decode() const {
  LEAT_ASSIGN(events::EventView event, events::DecodeEvent(envelope));
  if (whole) return event;
  if (event.source.empty()) event.source = source;
  if (event.subject.empty()) {
    event.subject = stream;
    event.streamversion = version;
  }
  return event;
}

Log::Log(Database* database, LogOptions options)
    : database_(database), options_(std::move(options)) {}

Log::~Log() = default;

Result<std::unique_ptr<Log>> Log::Open(Database* database, LogOptions options) {
  std::unique_ptr<Log> log(new Log(database, std::move(options)));
  LEAT_TRY(log->Recover());
  return log;
}

Status Log::Recover() {
  std::string value;
  LEAT_ASSIGN(const bool found, database_->Get(Family::kMeta, kIdentityKey, &value));
  if (found) {
    core::ByteReader reader(value);
    uint8_t version;
    uint64_t incarnation;
    if (!reader.TakeByte(&version) || !reader.TakeVarint(&incarnation)) {
      return Fail(ErrorClass::kCorrupt, "the log's identity cannot be read");
    }
    if (version != kRecordVersion) {
      return Fail(ErrorClass::kUnsupported, "the log has format " + std::to_string(version),
                  "use a newer leat");
    }
    incarnation_ = static_cast<uint32_t>(incarnation);
  } else {
    const auto records = database_->NewIterator(Family::kLog);
    records->SeekToFirst();
    LEAT_TRY(records->status());
    if (records->Valid()) {
      return Fail(ErrorClass::kCorrupt, "the log has records and no identity",
                  "restore the data folder from a backup");
    }
    const Hash random = core::Sha256(core::NewUuid());
    incarnation_ = core::LoadBigEndian32(random.View().data()) | 1;  // never 0, which is unknown
    std::string identity(1, static_cast<char>(kRecordVersion));
    core::AppendVarint(incarnation_, &identity);
    Batch batch(*database_);
    batch.Put(Family::kMeta, kIdentityKey, identity);
    LEAT_TRY(database_->Write(batch, true));
  }

  uint64_t size = 0;
  const auto iterator = database_->NewIterator(Family::kLog);
  iterator->SeekToLast();
  LEAT_TRY(iterator->status());
  if (iterator->Valid()) {
    LEAT_ASSIGN(const uint64_t first, FirstOf(*iterator));
    LEAT_ASSIGN(const RecordHeader header, ParseRecord(first, iterator->value()));
    if ((header.flags & kFlagContinues) != 0) return BadRecord(first, "should end its commit");
    size = header.tree_size;
    published_root_ = header.root;
    last_commit_time_us_ = header.commit_time_us;
  } else {
    published_root_ = frontier_.Root();
  }
  LEAT_ASSIGN(const bool has_tree, database_->Get(Family::kMeta, kTreeKey, &value));
  if (has_tree && !MerkleFrontier::Parse(value, &frontier_)) {
    return Fail(ErrorClass::kCorrupt, "the log's tree checkpoint cannot be read");
  }
  checkpoint_size_ = frontier_.size();

  index_ = std::make_unique<StreamIndex>(database_, options_.index_run_events);
  LEAT_ASSIGN(const uint64_t indexed_to, index_->IndexedTo());
  if (indexed_to > size || frontier_.size() > size) {
    return Fail(ErrorClass::kCorrupt, "the log ends at " + std::to_string(size) +
                                          ", before its index or its tree",
                "restore the data folder from a backup");
  }
  size_.store(size, std::memory_order_release);  // readers, the cursor below among them, stop there
  LogCursor cursor(this, std::min(indexed_to, frontier_.size()));
  LogEvent event;
  for (;;) {
    LEAT_ASSIGN(const bool more, cursor.Next(&event));
    if (!more) break;
    if (event.position >= frontier_.size()) {
      // The entry's bytes are the envelope's and what is before it, up to the entry's start.
      std::string entry(1, static_cast<char>(kEntryEvent));
      if (event.purged) {
        frontier_.Append(Hash::From(event.envelope));
      } else {
        core::AppendString(event.stream, &entry);
        core::AppendVarint(event.version, &entry);
        entry.append(event.envelope);
        frontier_.Append(LeafHash(LeafContext(event.commit_time_us, event.source), entry));
      }
    }
    if (event.position >= indexed_to && !event.purged) {
      index_->Add(event.stream, event.version, event.position);
    }
    constexpr uint64_t kPublishEvery = 65'536;
    if (event.position % kPublishEvery == 0) {
      index_->Publish();
      index_->Seal();
    }
  }
  index_->Publish();
  index_->Seal();
  if (frontier_.Root() != published_root_) {
    return Fail(ErrorClass::kCorrupt, "the log's last root does not match its entries",
                "run `leat verify`, and restore the data folder from a backup");
  }
  published_frontier_ = frontier_;
  next_position_ = record_first_ = size;
  return {};
}

Status Log::CheckRoom() const {
  LEAT_TRY(database_->CheckRoom());
  return index_->CheckRoom();
}

Result<uint64_t> Log::Add(std::string_view stream, const events::EventView& event) {
  if (stream.empty() || stream.size() > kStreamBytesMax ||
      stream.find('\0') != std::string_view::npos) {
    return Invalid("stream \"" + std::string(stream.substr(0, 64)) + "\" is not a stream name",
                   "1 to " + std::to_string(kStreamBytesMax) + " bytes, none of them zero");
  }
  LEAT_ASSIGN(const uint64_t version, index_->Version(stream));
  if (entries_.empty() && cut_.empty()) {  // a commit begins
    // Commit times never go back, so that "as of a time" is a place in the log.
    last_commit_time_us_ = std::max(last_commit_time_us_, options_.clock->NowUs());
    context_ = LeafContext(last_commit_time_us_, options_.source);
  }
  scratch_.clear();
  scratch_.push_back(static_cast<char>(kEntryEvent));
  core::AppendString(stream, &scratch_);
  core::AppendVarint(version + 1, &scratch_);
  const bool own_subject = !options_.whole && event.subject == stream;
  const bool own_source = !options_.whole && event.source == options_.source;
  if (own_subject || own_source) {
    events::EventView stored = event;
    if (own_subject) {
      stored.subject = {};
      stored.streamversion.reset();
    }
    if (own_source) stored.source = {};
    events::EncodeEvent(stored, &scratch_);
  } else {
    events::EncodeEvent(event, &scratch_);
  }
  if (!entries_.empty() && entries_.size() + scratch_.size() > kRecordBytesMax) CutRecord(true);
  core::AppendString(scratch_, &entries_);
  frontier_.Append(LeafHash(context_, scratch_));
  index_->Add(stream, version + 1, next_position_);
  return next_position_++;
}

void Log::CutRecord(bool continues) {
  std::string body;
  body.reserve(entries_.size() + 128);
  body.resize(kFixedHeaderBytes);
  core::AppendVarint(next_position_ - record_first_, &body);
  core::AppendVarint(static_cast<uint64_t>(last_commit_time_us_), &body);
  core::AppendVarint(next_position_, &body);
  body.append(frontier_.Root().View());
  core::AppendString(options_.source, &body);
  body.append(entries_);
  body[0] = static_cast<char>(kRecordVersion);
  body[kFlagsAt] = static_cast<char>((continues ? kFlagContinues : 0) |
                                     (options_.whole ? kFlagWhole : 0));
  std::string checksum;
  core::AppendBigEndian64(core::Checksum64(std::string_view(body).substr(kFlagsAt)), &checksum);
  body.replace(kChecksumAt, checksum.size(), checksum);
  cut_.push_back({record_first_, next_position_ - record_first_,
                  std::make_shared<const std::string>(std::move(body))});
  cut_bytes_ += entries_.size();
  entries_.clear();
  record_first_ = next_position_;
}

void Log::Seal(Batch* batch) {
  if (!entries_.empty()) CutRecord(false);
  for (const RecentRecord& record : cut_) {
    batch->Put(Family::kLog, PositionKey(record.first), *record.bytes);
  }
  if (next_position_ - checkpoint_size_ >= kTreeCheckpointEvents) {
    batch->Put(Family::kMeta, kTreeKey, frontier_.Serialize());
    checkpoint_size_ = next_position_;
  }
}

void Log::Abandon() {
  index_->Abandon();
  entries_.clear();
  cut_.clear();
  cut_bytes_ = 0;
  frontier_ = published_frontier_;
  next_position_ = record_first_ = size();
  checkpoint_size_ = std::min(checkpoint_size_, next_position_);
}

void Log::Publish() {
  if (cut_.empty()) return;
  published_frontier_ = frontier_;
  bool wake;
  {
    std::lock_guard publishing(publishing_);
    index_->Publish();
    std::lock_guard lock(mutex_);
    for (RecentRecord& record : cut_) {
      recent_bytes_ += record.bytes->size();
      recent_.push_back(std::move(record));
    }
    while (recent_bytes_ > kRecentBytesMax && recent_.size() > 1) {
      recent_bytes_ -= recent_.front().bytes->size();
      recent_.pop_front();
    }
    published_root_ = frontier_.Root();
    size_.store(next_position_, std::memory_order_release);
    wake = waiters_ > 0;
  }
  cut_.clear();
  cut_bytes_ = 0;
  if (wake) grown_.notify_all();
  index_->Seal();
}

bool Log::WaitFor(uint64_t position, std::chrono::milliseconds timeout) const {
  if (size() > position) return true;
  if (timeout.count() <= 0) return false;
  std::unique_lock lock(mutex_);
  ++waiters_;
  const uint64_t wakes = wakes_;
  grown_.wait_for(lock, timeout, [&] { return size() > position || wakes_ != wakes; });
  --waiters_;
  return size() > position;
}

void Log::Wake() const {
  {
    std::lock_guard lock(mutex_);
    ++wakes_;
  }
  grown_.notify_all();
}

Hash Log::Root() const {
  std::lock_guard lock(mutex_);
  return published_root_;
}

LogCursor Log::Read(uint64_t position) const { return LogCursor(this, position); }

std::shared_ptr<const std::string> Log::RecentAt(uint64_t position) const {
  std::lock_guard lock(mutex_);
  const auto after = std::upper_bound(
      recent_.begin(), recent_.end(), position,
      [](uint64_t value, const RecentRecord& record) { return value < record.first; });
  if (after == recent_.begin()) return nullptr;
  const RecentRecord& record = *std::prev(after);
  return position < record.first + record.count ? record.bytes : nullptr;
}

Status LogCursor::Load(uint64_t position) {
  std::shared_ptr<const std::string> bytes = log_->RecentAt(position);
  if (bytes == nullptr) {
    // Far behind: an iterator, kept from record to record. Who reads on from one record to the next gets them read ahead;
    // who jumps gets the one.
    const std::string key = PositionKey(position);
    Database::IterateOptions options;
    options.scan = record_ != nullptr && position == first_ + count_;
    const bool at_hand = iterator_ != nullptr && options.scan == scanning_ && iterator_->Valid() &&
                         iterator_->key() == key;
    if (!at_hand) {
      scanning_ = options.scan;
      iterator_ = log_->database_->NewIterator(Family::kLog, options);
      iterator_->SeekForPrev(key);
      LEAT_TRY(iterator_->status());
      if (!iterator_->Valid()) return BadRecord(position, "is not there");
    }
    bytes = std::make_shared<const std::string>(iterator_->value());
    iterator_->Next();
  } else {
    iterator_.reset();
  }
  // A record does not say where it begins, but how far the log reaches after it.
  core::ByteReader reader(std::string_view(*bytes).substr(
      std::min(bytes->size(), kFixedHeaderBytes)));
  uint64_t count = 0, time = 0, tree_size = 0;
  if (!reader.TakeVarint(&count) || !reader.TakeVarint(&time) || !reader.TakeVarint(&tree_size)) {
    return BadRecord(position, "is cut short");
  }
  const uint64_t first = tree_size - count;
  LEAT_ASSIGN(const RecordHeader header, ParseRecord(first, *bytes));
  if (position < first || position >= header.tree_size) {
    return BadRecord(position, "is missing");
  }
  entries_.clear();
  core::ByteReader entries(header.entries);
  for (uint64_t i = 0; i < header.count; ++i) {
    std::string_view entry;
    if (!entries.TakeString(&entry)) return BadRecord(first, "has bad entries");
    entries_.push_back({static_cast<uint32_t>(entry.data() - bytes->data()),
                        static_cast<uint32_t>(entry.size())});
  }
  record_ = std::move(bytes);
  first_ = first;
  count_ = header.count;
  commit_time_us_ = header.commit_time_us;
  whole_ = (header.flags & kFlagWhole) != 0;
  source_ = header.source;
  return {};
}

Result<bool> LogCursor::Next(LogEvent* event) {
  if (position_ < first_ || position_ >= first_ + count_ || record_ == nullptr) {
    if (position_ >= log_->size()) return false;
    LEAT_TRY(Load(position_));
  }
  const Entry& at = entries_[position_ - first_];
  event->position = position_;
  event->commit_time_us = commit_time_us_;
  event->source = source_;
  event->whole = whole_;
  if (!ParseEntry(std::string_view(*record_).substr(at.offset, at.size), event)) {
    return BadRecord(position_, "has a bad entry");
  }
  ++position_;
  return true;
}

Result<bool> LogCursor::Previous(LogEvent* event) {
  position_ = std::min(position_, log_->size());
  if (position_ == 0) return false;
  --position_;
  LEAT_TRY(Next(event));
  --position_;
  return true;
}

Result<VerifyReport> Log::Verify(const NotedRoot* noted,
                                 const std::function<void(uint64_t)>& progress) const {
  const uint64_t size_at_start = size();
  if (noted != nullptr && noted->size > size_at_start) {
    return Fail(ErrorClass::kCorrupt,
                "the log has " + std::to_string(size_at_start) + " events, but a root was noted at " +
                    std::to_string(noted->size) + ": its tail was cut",
                "restore the data folder from a backup");
  }
  const auto check_noted = [&](const MerkleFrontier& tree) -> Status {
    if (noted != nullptr && tree.size() == noted->size && tree.Root() != noted->root) {
      return Fail(ErrorClass::kCorrupt,
                  "the root over the first " + std::to_string(noted->size) + " events is " +
                      tree.Root().Hex() + ", not the noted " + noted->root.Hex(),
                  "the log was rewritten: restore the data folder from a backup");
    }
    return {};
  };
  VerifyReport report;
  MerkleFrontier tree;
  std::unordered_map<std::string, uint64_t> versions;
  LEAT_TRY(check_noted(tree));
  Database::IterateOptions options;
  options.scan = true;
  const auto iterator = database_->NewIterator(Family::kLog, options);
  bool in_commit = false;
  bool any_purged = false;
  for (iterator->SeekToFirst(); iterator->Valid() && tree.size() < size_at_start;
       iterator->Next()) {
    LEAT_ASSIGN(const uint64_t first, FirstOf(*iterator));
    if (first != tree.size()) return BadRecord(tree.size(), "is missing");
    LEAT_ASSIGN(const RecordHeader header, ParseRecord(first, iterator->value()));
    const std::string context = LeafContext(header.commit_time_us, header.source);
    core::ByteReader entries(header.entries);
    for (uint64_t i = 0; i < header.count; ++i) {
      std::string_view entry;
      LogEvent event;
      if (!entries.TakeString(&entry) || !ParseEntry(entry, &event)) {
        return BadRecord(first, "has bad entries");
      }
      any_purged |= event.purged;
      if (!event.purged) {
        uint64_t& version = versions[std::string(event.stream)];
        // Purged events do not name their stream, so a version may be skipped, but never repeated.
        if (event.version <= version) return BadRecord(first + i, "repeats a stream version");
        if (event.version != version + 1 && !any_purged) {
          return BadRecord(first + i, "leaves out a stream version");
        }
        version = event.version;
        LEAT_TRY(event.Decode());
      }
      tree.Append(LeafOf(entry, event, context));
      LEAT_TRY(check_noted(tree));
    }
    if (!entries.Empty()) return BadRecord(first, "has bytes left over");
    if (tree.Root() != header.root) return BadRecord(first, "has a wrong root");
    in_commit = (header.flags & kFlagContinues) != 0;
    ++report.records;
    if (progress) progress(tree.size());
  }
  LEAT_TRY(iterator->status());
  if (tree.size() < size_at_start) return BadRecord(tree.size(), "is missing");
  if (in_commit && tree.size() == size()) return BadRecord(tree.size(), "should end its commit");
  report.events = tree.size();
  report.streams = versions.size();
  report.root = tree.Root();
  return report;
}

}  // namespace leat::eventstore
