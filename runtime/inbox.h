// What of a partition counts. A partition that a shard writes holds claims of ownership, what
// owners wrote who had lost it, and what a relay published twice: whoever reads it passes these
// over by the same rules.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bus/bus.h"
#include "core/result.h"
#include "runtime/shard.h"
#include "runtime/window.h"

namespace leat::runtime {

// The source of what a shard's relay publishes: "leat/<shard>/<incarnation of its log>/<epoch>".
std::string OwnedSource(std::string_view shard, uint32_t incarnation, uint64_t epoch);
// The epoch of such a source; 0 for any other.
uint64_t EpochOf(std::string_view source);

events::Event MakeClaim(std::string_view shard, uint64_t epoch, std::string_view instance);
struct Claim {
  uint64_t epoch = 0;
  std::string instance;
};
// Errors: kCorrupt.
Result<Claim> ReadClaim(const events::EventView& event);

// The end of a partition of which everything before `known` was read before: where a transport tells its end late, it is
// asked for again for some seconds before a shorter one is believed.
Result<bus::PartitionEnd> EndOf(bus::Subscriber* transport, std::string_view topic,
                                uint32_t partition, uint64_t known);

// What becomes of a message.
enum class Verdict : uint8_t {
  kCounts,
  kPassedOver,  // it belongs there, and does not count: a claim, a repetition, what an owner wrote
                // who had lost the partition
  kRejected,    // it does not belong there: for the dead letters
};
struct Admission {
  Verdict verdict = Verdict::kCounts;
  std::string problem;   // of what was rejected
  bool vouched = false;  // a shard wrote it: it is no stranger's
  bool counts() const { return verdict == Verdict::kCounts; }
};

// Moves `position` behind the message, and tells whether it counts:
// - a claim does not, but from a higher epoch than before on only that epoch's events do;
// - an event of an owner (an epoch in its source, and a position) counts when it is of the newest
//   epoch and the next one of its log: a lower epoch is what an owner wrote who had lost the
//   partition, a lower position is a repetition, a higher one comes again behind what it lacks;
// - any other event counts while nobody has claimed the partition, unless the window holds its
//   source and id: then it is a repetition; it is rejected from the first claim on, and when it
//   has no source or id. So is what is no event. What a shard's log gives of itself, mounted, is
//   numbered and needs no window.
// The window belongs to the position: whoever reads the partition from its beginning comes to the
// same. Null: repetitions count, and what has no source or id. Errors: kCorrupt for a gap of offsets that
// are not vacant.
Result<Admission> Admit(std::string_view topic, const bus::Message& message,
                        InputPosition* position, Window* window);

// Whether what came of an admitted event says that it is a stranger's and at fault, or of no known type: for the dead letters.
bool IsAtFault(const Admission& admission, const Status& status);
// Whether it says that a shard wrote it and its type is not known: it is passed over.
bool IsToCome(const Admission& admission, const Status& status);

// Moves `position` up to the message, before which nothing but vacant offsets may be. Errors: kCorrupt for a gap of others.
Status PassVacant(std::string_view topic, const bus::Message& message, InputPosition* position);
// Moves `position`, which is behind all of the batch's messages, behind what is vacant after them.
void PassVacant(const bus::MessageBatch& batch, InputPosition* position);

inline constexpr std::string_view kDeadLettersSuffix = ".dead";
// Publishes what was rejected, with its original bytes, as runtime.dead_lettered.v1 to topic
// "<topic>.dead"; returns once that is durable. The same message twice after a crash has the same
// id.
Status SendToDeadLetters(bus::Transport* transport, const std::string& topic, uint32_t partition,
                         const bus::Message& message, const std::string& problem);

}  // namespace leat::runtime
