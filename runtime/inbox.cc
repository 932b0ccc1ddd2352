#include "runtime/inbox.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <thread>

#include "core/bytes.h"
#include "core/clock.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/v1/runtime.pb.h"

namespace leat::runtime {
namespace {

constexpr std::string_view kSourcePrefix = "leat/";
constexpr uint64_t kEpochMax = uint64_t{1} << 62;  // far above what owners come to
constexpr size_t kLetterBytesMax = 15u << 20;  // of an event's 16 MiB, with what stands beside them

// As a Protobuf string takes it, whatever the bytes are.
std::string Printable(std::string_view text) {
  std::string out(text.substr(0, 4096));
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

std::unexpected<Error> Gap(std::string_view topic, std::string_view what, uint64_t expected,
                           uint64_t got) {
  return Fail(ErrorClass::kCorrupt,
              std::string(topic) + " has a gap: expected " + std::string(what) + " " +
                  std::to_string(expected) + ", got " + std::to_string(got),
              "restore the topic from a backup");
}

}  // namespace

std::string OwnedSource(std::string_view shard, uint32_t incarnation, uint64_t epoch) {
  char hex[9];
  const auto end = std::to_chars(hex, hex + sizeof hex, incarnation, 16).ptr;
  return std::string(kSourcePrefix) + std::string(shard) + "/" + std::string(hex, end) + "/" +
         std::to_string(epoch);
}

uint64_t EpochOf(std::string_view source) {
  if (!source.starts_with(kSourcePrefix)) return 0;
  const size_t slash = source.rfind('/');
  // "leat/<shard>" alone, as in a mounted log, has none.
  if (slash < kSourcePrefix.size() || source.find('/', kSourcePrefix.size()) == slash) return 0;
  uint64_t epoch = 0;
  const char* const end = source.data() + source.size();
  const auto parsed = std::from_chars(source.data() + slash + 1, end, epoch);
  return parsed.ec == std::errc() && parsed.ptr == end ? epoch : 0;
}

Result<bus::PartitionEnd> EndOf(bus::Subscriber* transport, std::string_view topic,
                                uint32_t partition, uint64_t known) {
  constexpr auto kPatience = std::chrono::seconds(5);
  constexpr auto kPause = std::chrono::milliseconds(50);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    LEAT_ASSIGN(const auto end, transport->End(topic, partition));
    // One that tells incarnations tells the end at once, too.
    const bool late = end.offset < known && end.incarnation == 0;
    if (!late || std::chrono::steady_clock::now() > deadline) return end;
    std::this_thread::sleep_for(kPause);  // there is nothing to wait on
  }
}

events::Event MakeClaim(std::string_view shard, uint64_t epoch, std::string_view instance) {
  v1::ShardClaimed claim;
  claim.set_shard(std::string(shard));
  claim.set_epoch(epoch);
  claim.set_instance(std::string(instance));
  const std::string data = claim.SerializeAsString();
  const std::string id = std::string(instance) + "/" + std::to_string(epoch);
  const std::string source = std::string(kSourcePrefix) + std::string(shard);
  events::EventView view;
  view.type = events::kShardClaimed;
  view.id = id;
  view.source = source;
  view.time_us = core::SystemClock().NowUs();
  view.data = data;
  return events::Event(view);
}

Result<Claim> ReadClaim(const events::EventView& event) {
  v1::ShardClaimed claim;
  if (!claim.ParseFromArray(event.data.data(), static_cast<int>(event.data.size())) ||
      claim.epoch() == 0 || claim.epoch() > kEpochMax) {
    return Fail(ErrorClass::kCorrupt, "a claim of a partition cannot be read");
  }
  return Claim{claim.epoch(), claim.instance()};
}

Result<Admission> Admit(std::string_view topic, const bus::Message& message,
                        InputPosition* position, Window* window) {
  const auto pass = [] { return Admission{Verdict::kPassedOver, {}}; };
  if (message.offset < position->next) return pass();  // a poll may begin before it
  LEAT_TRY(PassVacant(topic, message, position));
  if (!message.problem.empty()) {
    ++position->next;
    return Admission{Verdict::kRejected, std::string(message.problem)};
  }
  const events::EventView& event = message.event;
  if (event.type == events::kShardClaimed) {
    ++position->next;
    const auto claim = ReadClaim(event);
    if (!claim) return Admission{Verdict::kRejected, claim.error().Text()};
    position->epoch = std::max(position->epoch, claim->epoch);
    return pass();
  }
  const uint64_t epoch = event.position ? EpochOf(event.source) : 0;
  if (epoch == 0) {
    ++position->next;
    if (position->epoch > 0) {
      return Admission{Verdict::kRejected, "it is not from the partition's owner but from \"" +
                                               std::string(event.source.substr(0, 128)) + "\""};
    }
    if (window != nullptr && !event.source.starts_with(kSourcePrefix)) {
      const std::string id = events::EventId(event);
      // Without them nobody can tell a repetition from another event.
      if (id.empty() || event.source.empty()) {
        return Admission{Verdict::kRejected, std::string(id.empty() ? "id" : "source") +
                                                 ": is missing; every CloudEvent has one"};
      }
      if (!window->Add(event.source, id)) {
        core::Log(core::LogLevel::kDebug, topic,
                  "offset " + std::to_string(message.offset) + " is a repetition");
        return pass();
      }
    }
    ++position->next_position;
    Admission admission;
    admission.vouched = event.source.starts_with(kSourcePrefix);  // a mounted log's
    return admission;
  }
  ++position->next;
  if (epoch > position->epoch) {
    return Admission{Verdict::kRejected,
                     "nobody has claimed epoch " + std::to_string(epoch) + " of the partition"};
  }
  if (epoch == position->epoch && *event.position > position->next_position) {
    // Of one publish a part was lost and what came after it was not: its owner sees that, and
    // publishes all from there again.
    core::LogWarning(topic, "offset " + std::to_string(message.offset) + ": position " +
                                std::to_string(*event.position) + " comes before " +
                                std::to_string(position->next_position));
    return pass();
  }
  if (epoch < position->epoch || *event.position < position->next_position) return pass();
  ++position->next_position;
  Admission admission;
  admission.vouched = true;
  return admission;
}

bool IsAtFault(const Admission& admission, const Status& status) {
  return !admission.vouched && !status &&
         (status.error().error_class == ErrorClass::kInvalid ||
          status.error().error_class == ErrorClass::kUnsupported);
}

bool IsToCome(const Admission& admission, const Status& status) {
  return admission.vouched && !status && status.error().error_class == ErrorClass::kUnsupported;
}

Status PassVacant(std::string_view topic, const bus::Message& message, InputPosition* position) {
  if (message.offset - message.vacant > position->next)
    return Gap(topic, "offset", position->next, message.offset);
  position->next = message.offset;
  return {};
}

void PassVacant(const bus::MessageBatch& batch, InputPosition* position) {
  position->next = std::max(position->next, batch.vacant_to);
}

Status SendToDeadLetters(bus::Transport* transport, const std::string& topic, uint32_t partition,
                         const bus::Message& message, const std::string& problem) {
  v1::DeadLettered letter;
  letter.set_topic(topic);
  letter.set_partition(partition);
  letter.set_offset(message.offset);
  letter.set_problem(Printable(problem));
  const events::EventView& from = message.event;
  letter.set_type(Printable(from.type));
  letter.set_source(Printable(from.source));
  letter.set_id(Printable(from.id));
  letter.set_subject(Printable(from.subject));
  letter.set_content_type(Printable(from.datacontenttype));
  letter.set_data(std::string(from.data.substr(0, kLetterBytesMax)));
  letter.set_data_bytes(from.data.size());
  const std::string data = letter.SerializeAsString();
  // The same one again after a crash has the same id.
  const std::string id =
      topic + "/" + std::to_string(partition) + "@" + std::to_string(message.offset);
  events::EventView view;
  view.type = events::kDeadLettered;
  view.id = id;
  view.source = "leat";
  view.partitionkey = topic;
  view.time_us = core::SystemClock().NowUs();
  view.data = data;
  const std::string dead = topic + std::string(kDeadLettersSuffix);
  core::LogWarning(
      topic, "offset " + std::to_string(message.offset) + " goes to " + dead + ": " + problem);
  LEAT_TRY(transport->CreateTopic(dead, 1));
  LEAT_TRY(transport->PublishTo(dead, 0, {events::Event(view)}));
  return {};
}

}  // namespace leat::runtime
