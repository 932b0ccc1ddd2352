// The registry: which event types there are, and which Protobuf message carries the data of each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace google::protobuf {
class Descriptor;
}

namespace leat::events {

inline constexpr std::string_view kBlockObserved = "chain.block_observed.v1";
inline constexpr std::string_view kBlockReverted = "chain.block_reverted.v1";
inline constexpr std::string_view kBlockSidelined = "chain.block_sidelined.v1";
inline constexpr std::string_view kOpeningObserved = "chain.opening_observed.v1";
inline constexpr std::string_view kEntriesPosted = "ledger.entries_posted.v1";
inline constexpr std::string_view kBlockClosed = "ledger.block_closed.v1";
inline constexpr std::string_view kBlockReopened = "ledger.block_reopened.v1";
inline constexpr std::string_view kInconsistencyFound = "ledger.inconsistency_found.v1";
inline constexpr std::string_view kShardClaimed = "runtime.shard_claimed.v1";
inline constexpr std::string_view kInstanceSeen = "runtime.instance_seen.v1";
inline constexpr std::string_view kRequestForwarded = "gateway.request_forwarded.v1";
inline constexpr std::string_view kRequestAnswered = "gateway.request_answered.v1";
inline constexpr std::string_view kDeadLettered = "runtime.dead_lettered.v1";
inline constexpr std::string_view kRequestFailed = "runtime.request_failed.v1";

// Thread-safe; lives for ever.
class Registry {
 public:
  // Of the types above and those that a service registered.
  static Registry& Global();

  // `type` is "<domain>.<event>.v<N>"; `descriptor` must outlive the program's use of it. A type is registered once.
  void Register(std::string_view type, const google::protobuf::Descriptor* descriptor);
  // Null for an unknown type.
  const google::protobuf::Descriptor* Find(std::string_view type) const;
  // Like Find, but an error that names the known types. Errors: kInvalid.
  Result<const google::protobuf::Descriptor*> Require(std::string_view type) const;
  // Sorted.
  std::vector<std::string> Types() const;
  // The dataschema attribute of a type: "leat:" and the message's full name.
  static std::string SchemaOf(const google::protobuf::Descriptor* descriptor);

 private:
  Registry();
  struct State;
  State* state_;
};

}  // namespace leat::events
