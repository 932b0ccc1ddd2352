#include "events/registry.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/logging.h>

#include <map>
#include <mutex>
#include <shared_mutex>

#include "chain/v1/chain.pb.h"
#include "gateway/v1/gateway.pb.h"
#include "ledger/v1/ledger.pb.h"
#include "runtime/v1/runtime.pb.h"

namespace leat::events {

struct Registry::State {
  mutable std::shared_mutex mutex;
  std::map<std::string, const google::protobuf::Descriptor*, std::less<>> types;
};

Registry::Registry() : state_(new State) {
  // What Protobuf finds wrong with somebody's bytes is the caller's error to return, and no line of ours to log.
  google::protobuf::SetLogHandler(nullptr);
  Register(kBlockObserved, chain::v1::BlockObserved::descriptor());
  Register(kBlockReverted, chain::v1::BlockReverted::descriptor());
  Register(kBlockSidelined, chain::v1::BlockSidelined::descriptor());
  Register(kOpeningObserved, chain::v1::OpeningObserved::descriptor());
  Register(kEntriesPosted, ledger::v1::EntriesPosted::descriptor());
  Register(kBlockClosed, ledger::v1::BlockClosed::descriptor());
  Register(kBlockReopened, ledger::v1::BlockReopened::descriptor());
  Register(kInconsistencyFound, ledger::v1::InconsistencyFound::descriptor());
  Register(kRequestForwarded, gateway::v1::RequestForwarded::descriptor());
  Register(kRequestAnswered, gateway::v1::RequestAnswered::descriptor());
  Register(kInstanceSeen, runtime::v1::InstanceSeen::descriptor());
  Register(kShardClaimed, runtime::v1::ShardClaimed::descriptor());
  Register(kDeadLettered, runtime::v1::DeadLettered::descriptor());
  Register(kRequestFailed, runtime::v1::RequestFailed::descriptor());
}

Registry& Registry::Global() {
  static Registry* const registry = new Registry;  // never destroyed: used by threads at exit
  return *registry;
}

void Registry::Register(std::string_view type, const google::protobuf::Descriptor* descriptor) {
  std::unique_lock lock(state_->mutex);
  const bool added = state_->types.emplace(type, descriptor).second;
  LEAT_ASSERT(added);
}

const google::protobuf::Descriptor* Registry::Find(std::string_view type) const {
  std::shared_lock lock(state_->mutex);
  const auto found = state_->types.find(type);
  return found == state_->types.end() ? nullptr : found->second;
}

Result<const google::protobuf::Descriptor*> Registry::Require(std::string_view type) const {
  if (const auto* descriptor = Find(type)) return descriptor;
  std::string known;
  for (const std::string& name : Types()) known += (known.empty() ? "" : ", ") + name;
  return Invalid("type: \"" + std::string(type.substr(0, 128)) + "\" is not a known event type",
                 "known are " + known);
}

std::vector<std::string> Registry::Types() const {
  std::shared_lock lock(state_->mutex);
  std::vector<std::string> out;
  for (const auto& [type, descriptor] : state_->types) out.push_back(type);
  return out;
}

std::string Registry::SchemaOf(const google::protobuf::Descriptor* descriptor) {
  return "leat:" + descriptor->full_name();
}

}  // namespace leat::events
