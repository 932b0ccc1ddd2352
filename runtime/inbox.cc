#include "runtime/inbox.h"

#include <charconv>

#include "core/bytes.h"
#include "core/clock.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/v1/runtime.pb.h"

namespace leat::runtime {
namespace {

constexpr std::string_view kSourcePrefix = "leat/";

std::unexpected<Error> Gap(std::string_view topic, std::string_view what, uint64_t expected, uint64_t got) {
  return Fail(ErrorClass::kCorrupt,
              std::string(topic) + " has a gap: expected " + std::string(what) + " " +
                  std::to_string(expected) + ", got " + std::to_string(got),
              "restore the topic from a backup");
}

}  // namespace

std::string OwnedSource(std::string_view shard, uint32_t incarnation, uint64_t epoch) {
  char hex[9];
  const auto end = std::to_chars(hex, hex + sizeof hex, incarnation, 16).ptr;
  return std::string(kSourcePrefix) + std::string(shard) + "/" + std::string(hex, end) + "/" + std::to_string(epoch);
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
  if (!claim.ParseFromArray(event.data.data(), static_cast<int>(event.data.size())) || claim.epoch() == 0) {
    return Fail(ErrorClass::kCorrupt, "a claim of a partition cannot be read");
  }
  return Claim{claim.epoch(), claim.instance()};
}

Result<Admission> Admit(std::string_view topic, const bus::Message& message, InputPosition* position) {
  const auto pass = [] { return Admission{Verdict::kPassedOver, {}}; };
  if (message.offset < position->next) return pass();  // a poll may begin before it
  if (message.offset > position->next) return Gap(topic, "offset", position->next, message.offset);
  if (!message.problem.empty()) {
    ++position->next;
    return Admission{Verdict::kRejected, std::string(message.problem)};
  }
  const events::EventView& event = message.event;
  if (event.type == events::kShardClaimed) {
    LEAT_ASSIGN(const Claim claim, ReadClaim(event));
    position->epoch = std::max(position->epoch, claim.epoch);
    ++position->next;
    return pass();
  }
  const uint64_t epoch = event.position ? EpochOf(event.source) : 0;
  if (epoch == 0) {
    ++position->next;
    if (position->epoch > 0) {
      return Admission{Verdict::kRejected, "it is not from the partition's owner but from \"" +
                                               std::string(event.source.substr(0, 128)) + "\""};
    }
    ++position->next_position;
    return Admission{};
  }
  if (epoch > position->epoch) return Gap(topic, "the claim of epoch", position->epoch, epoch);
  if (epoch == position->epoch && *event.position > position->next_position) {
    return Gap(topic, "position", position->next_position, *event.position);
  }
  ++position->next;
  if (epoch < position->epoch || *event.position < position->next_position) return pass();
  ++position->next_position;
  return Admission{};
}

Status SendToDeadLetters(bus::Transport* transport, const std::string& topic, uint32_t partition, const bus::Message& message,
                         const std::string& problem) {
  v1::DeadLettered letter;
  letter.set_topic(topic);
  letter.set_partition(partition);
  letter.set_offset(message.offset);
  letter.set_problem(problem);
  const events::EventView& from = message.event;
  letter.set_type(std::string(from.type));
  letter.set_source(std::string(from.source));
  letter.set_id(std::string(from.id));
  letter.set_subject(std::string(from.subject));
  letter.set_content_type(std::string(from.datacontenttype));
  letter.set_data(std::string(from.data));
  const std::string data = letter.SerializeAsString();
  // The same one again after a crash has the same id.
  const std::string id = topic + "/" + std::to_string(partition) + "@" + std::to_string(message.offset);
  events::EventView view;
  view.type = events::kDeadLettered;
  view.id = id;
  view.source = "leat";
  view.partitionkey = topic;
  view.time_us = core::SystemClock().NowUs();
  view.data = data;
  const std::string dead = topic + std::string(kDeadLettersSuffix);
  core::LogWarning(topic, "offset " + std::to_string(message.offset) + " goes to " + dead + ": " + problem);
  LEAT_TRY(transport->CreateTopic(dead, 1));
  LEAT_TRY(transport->PublishTo(dead, 0, {events::Event(view)}));
  return {};
}

}  // namespace leat::runtime
