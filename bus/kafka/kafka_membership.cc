#include "bus/kafka/kafka_membership.h"

#include <librdkafka/rdkafka.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "bus/group.h"
#include "core/bytes.h"
#include "core/log.h"

namespace leat::bus::kafka {
namespace {

constexpr std::string_view kComponent = "kafka";
// Commits wait for so long, and are sent together.
constexpr auto kStep = std::chrono::milliseconds(100);
// An answer to a join that was lost with its broker leaves the group with a newer member of our
// name, which is we; for so long after trouble that is taken for it.
constexpr auto kTakenForAnother = std::chrono::seconds(30);
// After trouble it is asked whether it is over.
constexpr auto kAskPause = std::chrono::milliseconds(1000);
constexpr auto kAskTimeout = std::chrono::milliseconds(500);
constexpr auto kCommitRetryPause = std::chrono::milliseconds(500);
// How long the end of a join that was begun is waited for when a membership ends.
constexpr auto kJoinEnds = std::chrono::milliseconds(5000);
// How long the last commit of a membership that ends is waited for.
constexpr auto kFarewell = std::chrono::milliseconds(1000);
// For so long it is asked what the group leaves out, before work is taken up anyway.
constexpr auto kLooksFor = std::chrono::milliseconds(5000);
// What joining once more did not help is left for so long.
constexpr auto kJoinsAgain = std::chrono::milliseconds(5000);
constexpr size_t kErrorTextMax = 512;
constexpr int kDestroysAnyConsumer = 0x02030000;  // a version of librdkafka

// Where the user sets nothing else.
const Properties kDefaults = {
    // A dead or frozen member is replaced after so long; brokers take no less unless told so.
    {"session.timeout.ms", "6000"},
    // Rebalances are noticed with heartbeats.
    {"heartbeat.interval.ms", "500"},
    // Nothing is read through this handle.
    {"queued.min.messages", "1"},
    {"queued.max.messages.kbytes", "1024"},
};

using List = Owned<rd_kafka_topic_partition_list_t>;

bool IsOfConnection(int error) {
  return error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || error == RD_KAFKA_RESP_ERR__TRANSPORT ||
         error == RD_KAFKA_RESP_ERR__TIMED_OUT || error == RD_KAFKA_RESP_ERR__RESOLVE;
}

// Kafka's consumer protocol is big-endian, with counts before what they count. A reader of what is
// cut off finds less.

bool TakeText(core::ByteReader* reader, std::string_view* text) {
  uint8_t high, low;
  return reader->TakeByte(&high) && reader->TakeByte(&low) &&
         reader->TakeBytes(size_t{high} << 8 | low, text);
}

// Topics with their partitions; those of `topic` are added.
void AddPartitions(core::ByteReader* reader, std::string_view topic, std::set<uint32_t>* to) {
  std::string_view name;
  uint32_t topics, count, partition;
  if (!reader->TakeBigEndian32(&topics)) return;
  for (; topics > 0; --topics) {
    if (!TakeText(reader, &name) || !reader->TakeBigEndian32(&count)) return;
    for (; count > 0; --count) {
      if (!reader->TakeBigEndian32(&partition)) return;
      if (name == topic) to->insert(partition);
    }
  }
}

constexpr size_t kVersionBytes = 2;

// What a member was assigned.
void AddAssigned(std::string_view bytes, std::string_view topic, std::set<uint32_t>* to) {
  core::ByteReader reader(bytes);
  std::string_view version;
  if (reader.TakeBytes(kVersionBytes, &version)) AddPartitions(&reader, topic, to);
}

// What a member had when it joined last: its topics, bytes of its assignor's, and its partitions.
void AddOwned(std::string_view bytes, std::string_view topic, std::set<uint32_t>* to) {
  core::ByteReader reader(bytes);
  std::string_view skipped;
  uint32_t topics, size;
  if (!reader.TakeBytes(kVersionBytes, &skipped) || !reader.TakeBigEndian32(&topics)) return;
  for (; topics > 0; --topics) {
    if (!TakeText(&reader, &skipped)) return;
  }
  constexpr uint32_t kNone = UINT32_MAX;
  if (!reader.TakeBigEndian32(&size)) return;
  if (size != kNone && !reader.TakeBytes(size, &skipped)) return;
  AddPartitions(&reader, topic, to);
}

class KafkaMembership final : public Membership {
 public:
  KafkaMembership(MakeConsumer make, GroupNames names, std::string instance)
      : make_(std::move(make)), names_(std::move(names)), instance_(std::move(instance)) {}
  ~KafkaMembership() override;

  Status Start();

  Result<Share> Poll(std::chrono::milliseconds timeout) override;
  Status Release(uint32_t partition) override;
  Status Commit(uint32_t partition, uint64_t next) override;
  void Wake() override {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    changed_.notify_all();
  }

 private:
  struct Progress {
    uint64_t wanted = 0;
    std::optional<uint64_t> committed;
  };

  // On the thread, out of rd_kafka_consumer_poll.
  static void OnRebalance(rd_kafka_t*, rd_kafka_resp_err_t what,
                          rd_kafka_topic_partition_list_t* partitions, void* opaque) {
    auto* self = static_cast<KafkaMembership*>(opaque);
    switch (what) {
      case RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS:
        return self->Assigned(*partitions);
      case RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS:
        return self->Revoked(*partitions);
      default:
        core::LogWarning(kComponent, self->names_.group + ": " + rd_kafka_err2str(what));
        rd_kafka_assign(self->handle_, nullptr);
    }
  }
  static void OnError(rd_kafka_t*, int error, const char* text, void* opaque) {
    static_cast<KafkaMembership*>(opaque)->Trouble(error, text);
  }
  static void OnCommitted(rd_kafka_t*, rd_kafka_resp_err_t error,
                          rd_kafka_topic_partition_list_t* offsets, void* opaque) {
    static_cast<KafkaMembership*>(opaque)->Committed(error, offsets);
  }

  // Of the thread, once there is one.
  Status Open();
  Status Subscribe();
  void Close();
  void Reopen();
  // librdkafka before 2.3 (its issue 4312) aborts the process when a cooperative-sticky consumer is
  // destroyed that has had an answer to its join and has never had an assignment.
  bool MayDestroy() const { return assigned_ || !joined_; }
  // To be called again and again: a member whose session has ended has no id any more.
  void NoteJoin();

  void Serve(const std::stop_token& stop);
  void Assigned(const rd_kafka_topic_partition_list_t& partitions);
  void Revoked(const rd_kafka_topic_partition_list_t& partitions);
  void Trouble(int error, const std::string& text);
  void Committed(rd_kafka_resp_err_t error, const rd_kafka_topic_partition_list_t* offsets);
  // Ends the wait of the thread.
  void Yield() {
    std::lock_guard lock(mutex_);
    if (queue_ != nullptr) rd_kafka_queue_yield(queue_);
  }
  void SendCommits();
  void AskWhetherOver();
  // A static member that comes back is given what it was assigned last, without a rebalance. What
  // it was giving back when it ended was withheld from the next owner until it joins without it,
  // and would be nobody's from then on. So a member takes nothing up before it has seen that the
  // group leaves nothing out, and otherwise joins once more, which makes the group share anew.
  void LookWhatIsLeftOut();
  // A partition that nobody was assigned, and that nobody is giving back.
  Result<bool> LeavesSomeOut();
  // Gives back what was revoked, once its owner has released all of it.
  void Unassign();

  const MakeConsumer make_;
  const GroupNames names_;
  const std::string instance_;

  // Of the thread.
  rd_kafka_t* handle_ = nullptr;
  bool reopen_ = false;
  bool assigned_ = false;  // the handle has had an assignment, be it an empty one
  bool joined_ = false;    // it has had an answer to its join (where that matters)
  std::optional<std::chrono::steady_clock::time_point> troubled_;  // last
  List revoked_;                                                   // not given back yet
  bool complete_ = false;                                          // nothing is left out
  std::set<uint32_t> assigned_first_;                              // before that is known
  std::optional<std::chrono::steady_clock::time_point> looks_;     // for it, since then
  std::chrono::steady_clock::time_point join_again_;               // not before
  bool committing_ = false;
  std::chrono::steady_clock::time_point commit_again_;
  std::chrono::steady_clock::time_point ask_again_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  rd_kafka_queue_t* queue_ = nullptr;      // of the handle; guarded by mutex_
  Share share_;                            // guarded by mutex_
  Share told_;                             // guarded by mutex_
  std::map<uint32_t, Progress> progress_;  // guarded by mutex_; of what is held, or not given back
  Status failure_;                         // guarded by mutex_; ended the membership
  Status trouble_;                         // guarded by mutex_; since the last answer of the group
  bool woken_ = false;                     // guarded by mutex_
  std::jthread thread_;
};

Status KafkaMembership::Start() {
  LEAT_TRY(Open());
  thread_ = std::jthread([this](const std::stop_token& stop) { Serve(stop); });
  return {};
}

Status KafkaMembership::Open() {
  const auto prepare = [this](rd_kafka_conf_t* conf) {
    char text[kErrorTextMax] = "";
    // What makes it this membership is not the user's to set.
    const std::pair<const char*, const char*> fixed[] = {
        {"group.id", names_.group.c_str()},
        {"group.instance.id", names_.instance.c_str()},
        {"partition.assignment.strategy", "cooperative-sticky"},
        {"enable.auto.commit", "false"},
        {"enable.auto.offset.store", "false"},
    };
    for (const auto& [name, value] : fixed) {
      const auto set = rd_kafka_conf_set(conf, name, value, text, sizeof text);
      LEAT_ASSERT(set == RD_KAFKA_CONF_OK);
    }
    rd_kafka_conf_set_rebalance_cb(conf, OnRebalance);
    rd_kafka_conf_set_offset_commit_cb(conf, OnCommitted);
    rd_kafka_conf_set_error_cb(conf, OnError);
    rd_kafka_conf_set_opaque(conf, this);
  };
  LEAT_ASSIGN(handle_, make_(kDefaults, prepare));
  rd_kafka_poll_set_consumer(handle_);
  {
    std::lock_guard lock(mutex_);
    queue_ = rd_kafka_queue_get_consumer(handle_);
  }
  return Subscribe();
}

Status KafkaMembership::Subscribe() {
  const List topics(rd_kafka_topic_partition_list_new(1));
  rd_kafka_topic_partition_list_add(topics.get(), names_.topic.c_str(), RD_KAFKA_PARTITION_UA);
  const auto subscribed = rd_kafka_subscribe(handle_, topics.get());
  if (subscribed != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return Broken("joining group " + names_.group, subscribed);
  }
  return {};
}

KafkaMembership::~KafkaMembership() {
  if (thread_.joinable()) {
    thread_.request_stop();
    Yield();
    thread_.join();
  }
  Close();
}

void KafkaMembership::Close() {
  {
    std::lock_guard lock(mutex_);
    if (queue_ != nullptr) rd_kafka_queue_destroy(queue_);
    queue_ = nullptr;
  }
  if (handle_ != nullptr) NoteJoin();
  // A static member does not leave, and closing in order would wait for a broker that may be away.
  if (handle_ != nullptr && MayDestroy()) {
    rd_kafka_destroy_flags(handle_, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
  } else if (handle_ != nullptr) {
    core::LogWarning(kComponent, names_.group +
                                     ": a consumer is left alone, destroying it would "
                                     "end the process");
    rd_kafka_unsubscribe(handle_);  // its session ends
  }
  handle_ = nullptr;
  assigned_ = joined_ = complete_ = false;
  assigned_first_.clear();
  looks_.reset();
}

void KafkaMembership::NoteJoin() {
  if (assigned_ || joined_ || rd_kafka_version() >= kDestroysAnyConsumer) return;
  char* const member_id = rd_kafka_memberid(handle_);
  joined_ = member_id != nullptr && *member_id != '\0';
  if (member_id != nullptr) rd_kafka_mem_free(handle_, member_id);
}

void KafkaMembership::Reopen() {
  reopen_ = false;
  core::LogWarning(kComponent, names_.group +
                                   ": the broker took this member for another one of "
                                   "its name: it joins again");
  Close();
  revoked_.reset();
  committing_ = false;
  auto opened = Open();
  if (opened) return;
  std::lock_guard lock(mutex_);
  failure_ = std::move(opened);
  changed_.notify_all();
}

void KafkaMembership::Serve(const std::stop_token& stop) {
  const auto step = [&] {
    rd_kafka_message_t* const message =
        rd_kafka_consumer_poll(handle_, static_cast<int>(kStep.count()));
    if (message == nullptr) return;
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      Trouble(message->err, rd_kafka_message_errstr(message));
    }
    // A message was fetched before its partition was paused: it is read by its subscription.
    rd_kafka_message_destroy(message);
  };
  while (!stop.stop_requested()) {
    if (reopen_) Reopen();
    if (handle_ == nullptr) return;
    step();
    NoteJoin();
    SendCommits();
    Unassign();
    LookWhatIsLeftOut();
    AskWhetherOver();
  }
  const auto end = std::chrono::steady_clock::now() + kJoinEnds;
  const auto failed = [&] {
    return rd_kafka_fatal_error(handle_, nullptr, 0) != RD_KAFKA_RESP_ERR_NO_ERROR;
  };
  NoteJoin();
  while (!MayDestroy() && !failed() && std::chrono::steady_clock::now() < end) step();
  if (failed()) return;
  commit_again_ = {};
  const auto deadline = std::chrono::steady_clock::now() + kFarewell;
  do {
    SendCommits();
    if (!committing_) break;
    step();
  } while (std::chrono::steady_clock::now() < deadline);
}

void KafkaMembership::Assigned(const rd_kafka_topic_partition_list_t& partitions) {
  assigned_ = true;
  const List list(rd_kafka_topic_partition_list_copy(&partitions));
  // Nothing is to be read; should a fetch be faster than the pause, it finds nothing.
  for (int i = 0; i < list->cnt; ++i) list->elems[i].offset = RD_KAFKA_OFFSET_END;
  if (rd_kafka_error_t* const refused = rd_kafka_incremental_assign(handle_, list.get())) {
    core::LogWarning(kComponent, names_.group + ": " + rd_kafka_error_string(refused));
    rd_kafka_error_destroy(refused);
    return;
  }
  if (list->cnt > 0) rd_kafka_pause_partitions(handle_, list.get());
  if (!complete_ && !looks_) looks_ = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(mutex_);
    trouble_ = {};
    auto& held = complete_ ? share_.held : assigned_first_;
    for (int i = 0; i < list->cnt; ++i) {
      held.insert(static_cast<uint32_t>(list->elems[i].partition));
    }
  }
  changed_.notify_all();
}

void KafkaMembership::Revoked(const rd_kafka_topic_partition_list_t& partitions) {
  List list(rd_kafka_topic_partition_list_copy(&partitions));
  const bool lost = rd_kafka_assignment_lost(handle_) != 0;
  {
    std::lock_guard lock(mutex_);
    for (int i = 0; i < list->cnt; ++i) {
      const auto partition = static_cast<uint32_t>(list->elems[i].partition);
      assigned_first_.erase(partition);
      if (lost) {
        share_.held.erase(partition);
        share_.to_release.erase(partition);
        progress_.erase(partition);
      } else if (share_.held.contains(partition)) {
        share_.to_release.insert(partition);
      }
    }
    if (!lost) trouble_ = {};
  }
  if (lost) {  // it joins anew
    complete_ = false;
    looks_.reset();
  }
  revoked_ = std::move(list);
  changed_.notify_all();
  Unassign();
}

void KafkaMembership::Unassign() {
  if (revoked_ == nullptr) return;
  {
    std::lock_guard lock(mutex_);
    // The group goes on only when all that was revoked is given back.
    if (!share_.to_release.empty()) return;
  }
  commit_again_ = {};
  SendCommits();  // reaches the group before the partitions do
  {
    std::lock_guard lock(mutex_);
    for (int i = 0; i < revoked_->cnt; ++i) {
      progress_.erase(static_cast<uint32_t>(revoked_->elems[i].partition));
    }
  }
  const List list = std::move(revoked_);
  if (rd_kafka_error_t* const refused = rd_kafka_incremental_unassign(handle_, list.get())) {
    core::LogWarning(kComponent, names_.group + ": " + rd_kafka_error_string(refused));
    rd_kafka_error_destroy(refused);
  }
}

void KafkaMembership::Trouble(int error, const std::string& text) {
  char fatal[kErrorTextMax] = "";
  const auto fatal_error = rd_kafka_fatal_error(handle_, fatal, sizeof fatal);
  const auto now = std::chrono::steady_clock::now();
  Status failure;
  if (fatal_error == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID && troubled_ &&
      now < *troubled_ + kTakenForAnother) {
    reopen_ = true;
    assigned_first_.clear();
    std::lock_guard lock(mutex_);
    share_ = {};
    progress_.clear();
    changed_.notify_all();
    return;
  }
  if (fatal_error == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID) {
    failure = SameInstance(names_.group, instance_);
  } else if (fatal_error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    failure =
        Fail(ErrorClass::kInternal, "kafka: group " + names_.group + ": " + fatal, "join again");
  } else if (error == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
             error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) {
    failure = Invalid(
        "kafka: group " + names_.group + ": " + text,
        "allow this user to read the group " + names_.group + " and the topic " + names_.topic);
  } else if (error == RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL) {
    failure = Fail(ErrorClass::kConflict, "kafka: group " + names_.group + ": " + text,
                   "its members use another assignment: end them, or set topics.prefix");
  } else if (error == RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT) {
    failure = Invalid("kafka: group " + names_.group + ": " + text,
                      "set kafka.session.timeout.ms to what the broker's "
                      "group.min.session.timeout.ms and group.max.session.timeout.ms allow");
  }
  if (failure && IsOfConnection(error)) troubled_ = now;
  {
    std::lock_guard lock(mutex_);
    if (failure) {
      // The rest passes, or is tried again by the library.
      trouble_ = Fail(ErrorClass::kUnavailable, "kafka: group " + names_.group + ": " + text,
                      "see whether the broker runs");
      return;
    }
    if (!failure_) return;
    failure_ = std::move(failure);
    share_ = {};
    progress_.clear();
  }
  changed_.notify_all();
}

// The library tells when brokers are away, and not when they are back.
void KafkaMembership::AskWhetherOver() {
  const auto now = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(mutex_);
    if (trouble_ || now < ask_again_) return;
  }
  const rd_kafka_metadata_t* metadata = nullptr;
  const auto asked =
      rd_kafka_metadata(handle_, 0, nullptr, &metadata, static_cast<int>(kAskTimeout.count()));
  ask_again_ = std::chrono::steady_clock::now() + kAskPause;
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR) return;
  rd_kafka_metadata_destroy(metadata);
  std::lock_guard lock(mutex_);
  trouble_ = {};
}

void KafkaMembership::LookWhatIsLeftOut() {
  if (!looks_ || reopen_) return;
  const auto some = LeavesSomeOut();
  const auto now = std::chrono::steady_clock::now();
  if (!some && now < *looks_ + kLooksFor) return;
  if (some && *some && now < join_again_) return;
  looks_.reset();
  if (!some) core::LogWarning(kComponent, names_.group + ": " + some.error().Text());
  if (some && *some) {
    core::LogInfo(kComponent, names_.group +
                                  ": a partition was left without an owner when a member ended: "
                                  "the group shares anew");
    join_again_ = now + kJoinsAgain;
    rd_kafka_unsubscribe(handle_);
    if (auto subscribed = Subscribe(); !subscribed) {
      core::LogWarning(kComponent, subscribed.error().Text());
    }
    return;
  }
  complete_ = true;
  {
    std::lock_guard lock(mutex_);
    share_.held.merge(assigned_first_);
  }
  changed_.notify_all();
}

// By the older of the library's two ways: in the other one, DescribeConsumerGroups, a connection
// that ends at the wrong moment aborts the process (its issue 4605, seen with 2.0.2).
Result<bool> KafkaMembership::LeavesSomeOut() {
  const rd_kafka_group_list* raw = nullptr;
  const auto asked = rd_kafka_list_groups(handle_, names_.group.c_str(), &raw,
                                          static_cast<int>(kAskTimeout.count()));
  const Owned<const rd_kafka_group_list> groups(raw);
  const std::string what = "asking for the members of group " + names_.group;
  // Partial: other brokers than the group's did not answer.
  if (asked != RD_KAFKA_RESP_ERR_NO_ERROR && asked != RD_KAFKA_RESP_ERR__PARTIAL) {
    return Broken(what, asked);
  }
  if (groups->group_cnt == 0) return Broken(what, RD_KAFKA_RESP_ERR__NOENT);
  const rd_kafka_group_info& group = groups->groups[0];
  if (group.err != RD_KAFKA_RESP_ERR_NO_ERROR) return Broken(what, group.err);
  // While the group shares anew, whatever is left out now is shared, too.
  if (std::string_view(group.state) != "Stable") return false;
  const auto bytes = [](const void* data, int size) {
    return std::string_view(static_cast<const char*>(data), static_cast<size_t>(size));
  };
  std::set<uint32_t> somebodys;
  for (int i = 0; i < group.member_cnt; ++i) {
    const rd_kafka_group_member_info& member = group.members[i];
    AddAssigned(bytes(member.member_assignment, member.member_assignment_size), names_.topic,
                &somebodys);
    AddOwned(bytes(member.member_metadata, member.member_metadata_size), names_.topic, &somebodys);
  }
  for (uint32_t i = 0; i < names_.partitions; ++i) {
    if (!somebodys.contains(i)) return true;
  }
  return false;
}

void KafkaMembership::SendCommits() {
  const auto now = std::chrono::steady_clock::now();
  if (committing_ || now < commit_again_) return;
  List list;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [partition, progress] : progress_) {
      if (progress.committed == progress.wanted) continue;
      if (list == nullptr) list.reset(rd_kafka_topic_partition_list_new(1));
      rd_kafka_topic_partition_list_add(list.get(), names_.topic.c_str(),
                                        static_cast<int32_t>(partition))
          ->offset = static_cast<int64_t>(progress.wanted);
    }
  }
  if (list == nullptr) return;
  constexpr int kAsync = 1;
  committing_ = rd_kafka_commit(handle_, list.get(), kAsync) == RD_KAFKA_RESP_ERR_NO_ERROR;
  commit_again_ = now + kStep;
}

void KafkaMembership::Committed(rd_kafka_resp_err_t error,
                                const rd_kafka_topic_partition_list_t* offsets) {
  committing_ = false;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR || offsets == nullptr) {
    commit_again_ = std::chrono::steady_clock::now() + kCommitRetryPause;
    return;
  }
  std::lock_guard lock(mutex_);
  trouble_ = {};
  for (int i = 0; i < offsets->cnt; ++i) {
    const auto& one = offsets->elems[i];
    const auto found = progress_.find(static_cast<uint32_t>(one.partition));
    if (found == progress_.end() || one.err != RD_KAFKA_RESP_ERR_NO_ERROR) continue;
    found->second.committed = static_cast<uint64_t>(one.offset);
  }
}

Result<Share> KafkaMembership::Poll(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return woken_ || !failure_ || share_ != told_; });
  woken_ = false;
  LEAT_TRY(failure_);
  // Nothing is held, and why.
  if (share_ == told_ && share_.held.empty()) LEAT_TRY(trouble_);
  told_ = share_;
  return share_;
}

Status KafkaMembership::Release(uint32_t partition) {
  bool last;
  {
    std::lock_guard lock(mutex_);
    LEAT_TRY(failure_);
    if (!share_.held.contains(partition)) return {};  // it was lost
    if (share_.to_release.erase(partition) == 0) return NotToBeReleased(partition);
    share_.held.erase(partition);
    told_.held.erase(partition);
    told_.to_release.erase(partition);
    last = share_.to_release.empty();
  }
  if (last) Yield();
  return {};
}

Status KafkaMembership::Commit(uint32_t partition, uint64_t next) {
  std::lock_guard lock(mutex_);
  LEAT_TRY(failure_);
  if (share_.held.contains(partition)) progress_[partition].wanted = next;
  return {};
}

}  // namespace

Result<std::unique_ptr<Membership>> JoinGroup(const MakeConsumer& make, const GroupNames& names,
                                              std::string instance) {
  auto membership = std::make_unique<KafkaMembership>(make, names, std::move(instance));
  LEAT_TRY(membership->Start());
  return membership;
}

}  // namespace leat::bus::kafka
