#include "apps/node.h"

namespace leat::apps {

Result<std::unique_ptr<Node>> Node::Open(const NodeOptions& options) {
  std::unique_ptr<Node> node(new Node(options));
  LEAT_ASSIGN(node->folder_, eventstore::DataFolder::Lock(options.data));
  const auto sub = [&](std::string_view name) { return node->folder_->Sub(name); };
  LEAT_ASSIGN(node->transport_, bus::EmbeddedTransport::Open(sub("bus")));

  runtime::ShardOptions ingest;
  ingest.path = sub("shards/ingest-0");
  ingest.name = "ingest-0";
  ingest.has_log = true;
  LEAT_ASSIGN(node->ingest_shard_, runtime::Shard::Open(ingest));
  LEAT_TRY(node->transport_->Mount(ingest::kChainBlocksTopic, 0, "ingest",
                                   node->ingest_shard_->log()));
  node->feed_ = std::make_unique<ingest::ChainFeed>(node->ingest_shard_.get());

  ledger::ServiceOptions ledger;
  ledger.path = sub("shards/ledger-0");
  ledger.input_topic = ingest::kChainBlocksTopic;
  ledger.mounted = options.mount_logs;
  LEAT_ASSIGN(node->ledger_, ledger::Service::Open(ledger, node->transport_.get()));

  LEAT_ASSIGN(node->balances_,
              balances::Service::Open(sub("shards/balances-0"),
                                      std::string(ledger::kLedgerEntriesTopic),
                                      node->transport_.get()));
  LEAT_TRY(node->ledger_->Start());
  LEAT_TRY(node->balances_->Start());
  return node;
}

Node::~Node() = default;

Status Node::CatchUp(const std::function<void(uint64_t, uint64_t)>& progress) {
  constexpr auto kStep = std::chrono::milliseconds(100);
  LEAT_ASSIGN(const auto blocks, transport_->End(ingest::kChainBlocksTopic, 0));
  const auto report = [&] {
    if (progress) progress(balances_->applied(), ledger_->decided());
  };
  while (!ledger_->WaitApplied(blocks.offset, kStep)) {
    LEAT_TRY(ledger_->error());
    LEAT_TRY(balances_->error());
    report();
  }
  const uint64_t decided = ledger_->decided();
  while (!balances_->WaitApplied(decided, kStep)) {
    LEAT_TRY(balances_->error());
    LEAT_TRY(ledger_->error());
    report();
  }
  report();
  return {};
}

gateway::Services Node::services() {
  gateway::Services services;
  services.transport = transport_.get();
  services.feed = feed_.get();
  services.ledger = ledger_.get();
  services.balances = balances_.get();
  services.default_chain = options_.default_chain;
  services.logs = {{"bus", &transport_->shared_log()},
                   {std::string(ingest::kChainBlocksTopic), ingest_shard_->log()},
                   {std::string(ledger::kLedgerEntriesTopic), &ledger_->log()}};
  services.verify_files = [this]() -> Status {
    LEAT_TRY(transport_->VerifyFiles());
    LEAT_TRY(ingest_shard_->database().VerifyChecksums());
    LEAT_TRY(ledger_->VerifyFiles());
    return balances_->VerifyFiles();
  };
  return services;
}

}  // namespace leat::apps
