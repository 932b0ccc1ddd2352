#include "producers/ingest/chain_feed.h"

#include <algorithm>
#include <optional>

#include "chain/v1/chain.pb.h"
#include "core/clock.h"
#include "core/hash.h"
#include "events/registry.h"
#include "events/wire.h"

namespace leat::ingest {
namespace {

using chain::v1::BlockObserved;

constexpr size_t kCommitBytes = 4u << 20;
constexpr size_t kReorganisationDepthMax = 100'000;

struct Head {
  Hash hash;
  bool excerpt = false;
};

struct Node {
  uint64_t number = 0;
  Hash parent;
  bool has_difficulty = false;
  Amount total_difficulty;
  bool canonical = false;
  uint64_t position = 0;  // of the first part, observed or sidelined
  uint32_t parts = 1;
};

std::string ChainKey(char kind, std::string_view chain) {
  std::string key(1, kind);
  core::AppendString(chain, &key);
  return key;
}

std::string NodeKey(std::string_view chain, const Hash& hash) {
  std::string key = ChainKey('n', chain);
  key.append(hash.View());
  return key;
}

std::string Pack(const Head& head) {
  std::string out(head.hash.View());
  out.push_back(head.excerpt ? 1 : 0);
  return out;
}

std::string Pack(const Node& node) {
  std::string out;
  core::AppendVarint(node.number, &out);
  out.append(node.parent.View());
  out.push_back(static_cast<char>((node.has_difficulty ? 1 : 0) | (node.canonical ? 2 : 0)));
  node.total_difficulty.AppendPacked(&out);
  core::AppendVarint(node.position, &out);
  core::AppendVarint(node.parts, &out);
  return out;
}

bool Unpack(std::string_view bytes, Node* node) {
  core::ByteReader reader(bytes);
  std::string_view parent;
  uint8_t flags;
  if (!reader.TakeVarint(&node->number) || !reader.TakeBytes(Hash::kSize, &parent) ||
      !reader.TakeByte(&flags)) {
    return false;
  }
  node->parent = Hash::From(parent);
  node->has_difficulty = (flags & 1) != 0;
  node->canonical = (flags & 2) != 0;
  std::string_view rest = reader.Rest();
  if (!Amount::TakePacked(&rest, &node->total_difficulty)) return false;
  core::ByteReader tail(rest);
  uint64_t parts;
  if (!tail.TakeVarint(&node->position) || !tail.TakeVarint(&parts)) return false;
  node->parts = static_cast<uint32_t>(parts);
  return true;
}

Result<std::optional<Head>> GetHead(const runtime::State& state, std::string_view chain) {
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(ChainKey('h', chain), &value));
  if (!found) return std::nullopt;
  if (value.size() != Hash::kSize + 1) return Fail(ErrorClass::kCorrupt, "a head row is damaged");
  return Head{Hash::From(std::string_view(value).substr(0, Hash::kSize)), value.back() != 0};
}

Result<std::optional<Node>> GetNode(const runtime::State& state, std::string_view chain,
                                    const Hash& hash) {
  std::string value;
  LEAT_ASSIGN(const bool found, state.Get(NodeKey(chain, hash), &value));
  if (!found) return std::nullopt;
  Node node;
  if (!Unpack(value, &node)) return Fail(ErrorClass::kCorrupt, "a block row is damaged");
  return node;
}

std::string Describe(const chain::v1::Header& header) {
  return "block " + std::to_string(header.number()) + " " + core::ToHex(header.hash());
}

// The id of a chain fact: nothing decided it, so it cannot come from a cause; a block may be announced twice.
std::string FactId(std::string_view hash, uint64_t position) {
  std::string id;
  core::AppendHex(hash.substr(0, 8), &id);
  return id + "@" + std::to_string(position);
}

// A block in parts of at most kPartBytesMax, one transaction at least in each.
std::vector<BlockObserved> Split(const BlockObserved& block) {
  std::vector<BlockObserved> parts;
  if (block.ByteSizeLong() <= kPartBytesMax) {
    parts.push_back(block);
    parts.back().set_part(1);
    parts.back().set_parts(1);
    return parts;
  }
  BlockObserved frame;
  frame.set_chain(block.chain());
  frame.set_excerpt(block.excerpt());
  *frame.mutable_header() = block.header();
  *frame.mutable_coverage() = block.coverage();
  parts.push_back(frame);
  size_t bytes = frame.ByteSizeLong();
  for (const auto& transaction : block.transactions()) {
    const size_t size = transaction.ByteSizeLong() + 4;
    if (bytes + size > kPartBytesMax && parts.back().transactions_size() > 0) {
      parts.push_back(frame);
      bytes = frame.ByteSizeLong();
    }
    *parts.back().add_transactions() = transaction;
    bytes += size;
  }
  // Grants of a genesis may fill parts of their own; they come last, as in a block that is whole.
  for (const auto& transfer : block.system_transfers()) {
    const size_t size = transfer.ByteSizeLong() + 4;
    if (bytes + size > kPartBytesMax) {
      parts.push_back(frame);
      bytes = frame.ByteSizeLong();
    }
    *parts.back().add_system_transfers() = transfer;
    bytes += size;
  }
  *parts.back().mutable_withdrawals() = block.withdrawals();
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].set_part(static_cast<uint32_t>(i + 1));
    parts[i].set_parts(static_cast<uint32_t>(parts.size()));
  }
  return parts;
}

class Announcer {
 public:
  Announcer(std::string_view chain, uint64_t next_position, runtime::Decision* decision)
      : chain_(chain), stream_(ChainStream(chain)), position_(next_position),
        decision_(decision) {}

  void Observed(const BlockObserved& block) {
    for (const BlockObserved& part : Split(block)) {
      Add(events::kBlockObserved, part.header(), part.SerializeAsString());
    }
  }
  void Sidelined(const BlockObserved& block) {
    for (BlockObserved& part : Split(block)) {
      chain::v1::BlockSidelined sidelined;
      *sidelined.mutable_block() = std::move(part);
      Add(events::kBlockSidelined, block.header(), sidelined.SerializeAsString());
    }
  }
  void Reverted(const Hash& hash, const Node& node, const chain::v1::Header& replaced_by) {
    chain::v1::BlockReverted reverted;
    reverted.set_chain(std::string(chain_));
    reverted.set_number(node.number);
    reverted.set_hash(std::string(hash.View()));
    reverted.set_parent_hash(std::string(node.parent.View()));
    reverted.set_replaced_by(replaced_by.hash());
    decision_->Add(stream_, events::kBlockReverted, TimeOf(replaced_by), chain_,
                   reverted.SerializeAsString(), FactId(hash.View(), position_++));
  }

 private:
  static int64_t TimeOf(const chain::v1::Header& header) {
    return static_cast<int64_t>(header.timestamp_s()) * core::kMicrosPerSecond;
  }
  void Add(std::string_view type, const chain::v1::Header& header, std::string data) {
    decision_->Add(stream_, type, TimeOf(header), chain_, std::move(data),
                   FactId(header.hash(), position_++));
  }

  std::string_view chain_;
  std::string stream_;
  uint64_t position_;
  runtime::Decision* decision_;
};

// The content of a block that was announced before.
Result<BlockObserved> ReadBlock(const eventstore::Log& log, const Node& node) {
  auto cursor = log.Read(node.position);
  BlockObserved whole;
  for (uint32_t i = 0; i < node.parts; ++i) {
    eventstore::LogEvent stored;
    LEAT_ASSIGN(const bool found, cursor.Next(&stored));
    if (!found || stored.purged) return Fail(ErrorClass::kCorrupt, "a known block is not in the log");
    LEAT_ASSIGN(const auto event, stored.Decode());
    BlockObserved part;
    bool good;
    if (event.type == events::kBlockSidelined) {
      chain::v1::BlockSidelined sidelined;
      good = sidelined.ParseFromArray(event.data.data(), static_cast<int>(event.data.size()));
      part = std::move(*sidelined.mutable_block());
    } else {
      good = part.ParseFromArray(event.data.data(), static_cast<int>(event.data.size()));
    }
    if (!good) return Fail(ErrorClass::kCorrupt, "a known block in the log cannot be read");
    if (i == 0) {
      whole = std::move(part);
    } else {
      whole.mutable_transactions()->MergeFrom(part.transactions());
      whole.mutable_system_transfers()->MergeFrom(part.system_transfers());
      whole.mutable_withdrawals()->MergeFrom(part.withdrawals());
    }
  }
  return whole;
}

// What Evolve wants of an announced block, without parsing its transactions.
struct BlockGlimpse {
  std::string_view chain;
  chain::v1::Header header;
  uint32_t part = 0;
  uint32_t parts = 0;
  bool excerpt = false;
};

bool Glimpse(std::string_view data, BlockGlimpse* out) {
  core::ByteReader reader(data);
  events::WireField field;
  while (!reader.Empty()) {
    if (!events::TakeField(&reader, &field)) return false;
    switch (field.field) {
      case BlockObserved::kChainFieldNumber: out->chain = field.bytes; break;
      case BlockObserved::kHeaderFieldNumber:
        if (!out->header.ParseFromArray(field.bytes.data(), static_cast<int>(field.bytes.size()))) {
          return false;
        }
        break;
      case BlockObserved::kPartFieldNumber: out->part = static_cast<uint32_t>(field.number); break;
      case BlockObserved::kPartsFieldNumber:
        out->parts = static_cast<uint32_t>(field.number);
        break;
      case BlockObserved::kExcerptFieldNumber: out->excerpt = field.number != 0; break;
      default: break;
    }
  }
  return out->header.hash().size() == Hash::kSize &&
         out->header.parent_hash().size() == Hash::kSize && out->part >= 1 &&
         out->part <= out->parts;
}

// Total difficulty as the header has it, else the parent's and the block's own.
Result<Node> NodeOf(const chain::v1::Header& header, const std::optional<Node>& parent) {
  Node node;
  node.number = header.number();
  node.parent = Hash::From(header.parent_hash());
  LEAT_ASSIGN(const Amount difficulty, Amount::FromBytes(header.difficulty()));
  LEAT_ASSIGN(node.total_difficulty, Amount::FromBytes(header.total_difficulty()));
  node.has_difficulty = !node.total_difficulty.IsZero();
  if (!node.has_difficulty && (!difficulty.IsZero() || (parent && parent->has_difficulty))) {
    node.has_difficulty = true;
    node.total_difficulty = difficulty;
    if (parent && !node.total_difficulty.CheckedAdd(parent->total_difficulty)) {
      return Invalid(Describe(header) + ": total difficulty exceeds 256 bits");
    }
  }
  return node;
}

// Over the parts of the opening balances, in order.
std::string OpeningDigest(std::string_view before, std::string_view part) {
  return std::string(core::Sha256(before, part).View());
}

}  // namespace

FeedReport& FeedReport::operator+=(const FeedReport& other) {
  observed += other.observed;
  reverted += other.reverted;
  sidelined += other.sidelined;
  known += other.known;
  return *this;
}

Status CheckChainId(std::string_view chain) {
  const size_t colon = chain.find(':');
  const auto all_of = [](std::string_view text, std::string_view more) {
    return std::all_of(text.begin(), text.end(), [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
             more.find(c) != std::string_view::npos;
    });
  };
  const std::string_view space = chain.substr(0, colon);
  const std::string_view reference =
      colon == std::string_view::npos ? std::string_view() : chain.substr(colon + 1);
  if (space.size() < 3 || space.size() > 8 || reference.empty() || reference.size() > 32 ||
      !all_of(space, "") || !all_of(reference, "_ABCDEFGHIJKLMNOPQRSTUVWXYZ")) {
    return Invalid("\"" + std::string(chain.substr(0, 64)) + "\" is not a chain id",
                   "write CAIP-2, such as eip155:1 for Ethereum's main network");
  }
  return {};
}

std::string ChainStream(std::string_view chain) { return "chain-" + std::string(chain); }

Result<bool> ChainDecider::Knows(const runtime::State& state, std::string_view chain,
                                 const Hash& hash) {
  LEAT_ASSIGN(const auto node, GetNode(state, chain, hash));
  return node.has_value();
}

Result<bool> ChainDecider::NeedsLog(const runtime::State& state, const BlockObserved& block) {
  LEAT_ASSIGN(const auto head, GetHead(state, block.chain()));
  return head && head->hash.View() != block.header().parent_hash();
}

Status ChainDecider::Decide(const runtime::State& state, const eventstore::Log& log,
                            const BlockObserved& block, runtime::Decision* decision,
                            FeedReport* report) const {
  const bool excerpt = block.excerpt();
  const auto& header = block.header();
  const std::string& chain = block.chain();
  if (header.hash().size() != Hash::kSize || header.parent_hash().size() != Hash::kSize) {
    return Invalid("a block without hash or parent hash");
  }
  const Hash hash = Hash::From(header.hash());
  const Hash parent_hash = Hash::From(header.parent_hash());
  LEAT_ASSIGN(const auto known, GetNode(state, chain, hash));
  if (known) {
    ++report->known;
    return {};
  }
  Announcer announce(chain, log.NextPosition(), decision);
  LEAT_ASSIGN(const auto head, GetHead(state, chain));
  if (!head) {
    announce.Observed(block);
    ++report->observed;
    return {};
  }
  LEAT_ASSIGN(const auto head_node, GetNode(state, chain, head->hash));
  if (!head_node) return Fail(ErrorClass::kCorrupt, "the head's row is not there");
  if (head->excerpt != excerpt) {
    return Fail(ErrorClass::kConflict,
                "chain " + chain + " was ingested " + (head->excerpt ? "as" : "not as") +
                    " an excerpt",
                "use another data folder for what is not exact");
  }
  if (excerpt) {
    if (header.number() <= head_node->number) {
      return Fail(ErrorClass::kConflict,
                  Describe(header) + " is not above the excerpt's head " +
                      std::to_string(head_node->number),
                  "an excerpt cannot reorganise: ingest ascending blocks");
    }
    announce.Observed(block);
    ++report->observed;
    return {};
  }
  LEAT_ASSIGN(const auto parent, GetNode(state, chain, parent_hash));
  if (!parent) {
    return Invalid(Describe(header) + ": its parent " + parent_hash.Hex() + " is not known",
                   "ingest the blocks between " + std::to_string(head_node->number) +
                       ", the head, and this one first");
  }
  if (header.number() != parent->number + 1) {
    return Invalid(Describe(header) + ": its parent has number " + std::to_string(parent->number),
                   "check the number column");
  }
  if (parent_hash == head->hash) {
    announce.Observed(block);
    ++report->observed;
    return {};
  }

  // A fork.
  LEAT_ASSIGN(const Node node, NodeOf(header, parent));
  const bool after_merge = header.has_difficulty() && header.difficulty().empty();
  bool wins = after_merge;
  if (!after_merge) {
    if (!node.has_difficulty || !head_node->has_difficulty) {
      return Invalid(Describe(header) + " forks from the chain, and it has no difficulty",
                     "give the columns difficulty or total_difficulty");
    }
    wins = node.total_difficulty > head_node->total_difficulty;
  }
  if (!wins) {
    announce.Sidelined(block);
    ++report->sidelined;
    return {};
  }
  // Up the branch to the canonical chain, then down from the head to that block.
  std::vector<BlockObserved> branch;
  Node at = *parent;
  Hash at_hash = parent_hash;
  while (!at.canonical) {
    if (branch.size() == kReorganisationDepthMax) {
      return Fail(ErrorClass::kExhausted, "a branch is longer than " +
                                              std::to_string(kReorganisationDepthMax) + " blocks");
    }
    LEAT_ASSIGN(BlockObserved ancestor, ReadBlock(log, at));
    branch.push_back(std::move(ancestor));
    at_hash = at.parent;
    LEAT_ASSIGN(const auto above, GetNode(state, chain, at_hash));
    if (!above) return Fail(ErrorClass::kCorrupt, "a branch has no beginning");
    at = *above;
  }
  Hash from = head->hash;
  Node reverted = *head_node;
  while (from != at_hash) {
    announce.Reverted(from, reverted, header);
    ++report->reverted;
    from = reverted.parent;
    LEAT_ASSIGN(const auto above, GetNode(state, chain, from));
    if (!above) return Fail(ErrorClass::kCorrupt, "the canonical chain has a gap");
    reverted = *above;
  }
  for (auto ancestor = branch.rbegin(); ancestor != branch.rend(); ++ancestor) {
    announce.Observed(*ancestor);
    ++report->observed;
  }
  announce.Observed(block);
  ++report->observed;
  return {};
}

Status ChainDecider::Evolve(runtime::State* state, const events::EventView& event,
                            uint64_t position) {
  if (event.type == events::kBlockReverted) {
    chain::v1::BlockReverted reverted;
    if (!reverted.ParseFromArray(event.data.data(), static_cast<int>(event.data.size()))) {
      return Fail(ErrorClass::kCorrupt, "a block_reverted event cannot be read");
    }
    const Hash hash = Hash::From(reverted.hash());
    LEAT_ASSIGN(auto node, GetNode(*state, reverted.chain(), hash));
    if (!node) return Fail(ErrorClass::kCorrupt, "a reverted block is not known");
    node->canonical = false;
    state->Put(NodeKey(reverted.chain(), hash), Pack(*node));
    state->Put(ChainKey('h', reverted.chain()), Pack(Head{node->parent, false}));
    return {};
  }
  if (event.type == events::kOpeningObserved) {
    const std::string key = ChainKey('o', event.partitionkey);
    std::string before;
    LEAT_TRY(state->Get(key, &before));
    state->Put(key, OpeningDigest(before, event.data));
    return {};
  }
  std::string_view data = event.data;
  const bool sidelined = event.type == events::kBlockSidelined;
  if (!sidelined && event.type != events::kBlockObserved) return {};
  if (sidelined) {
    core::ByteReader reader(data);
    events::WireField field;
    if (!events::TakeField(&reader, &field)) {
      return Fail(ErrorClass::kCorrupt, "a block_sidelined event cannot be read");
    }
    data = field.bytes;
  }
  BlockGlimpse block;
  if (!Glimpse(data, &block)) {
    return Fail(ErrorClass::kCorrupt, "a " + std::string(event.type) + " event cannot be read");
  }
  if (block.part != block.parts) return {};
  const Hash hash = Hash::From(block.header.hash());
  const Hash parent_hash = Hash::From(block.header.parent_hash());
  LEAT_ASSIGN(const auto parent, GetNode(*state, block.chain, parent_hash));
  LEAT_ASSIGN(Node node, NodeOf(block.header, parent));
  node.canonical = !sidelined;
  node.position = position + 1 - block.parts;
  node.parts = block.parts;
  state->Put(NodeKey(block.chain, hash), Pack(node));
  if (!sidelined) {
    state->Put(ChainKey('h', block.chain), Pack(Head{hash, block.excerpt}));
  }
  return {};
}

Result<FeedReport> ChainFeed::Submit(const std::vector<BlockObserved>& blocks) {
  std::lock_guard lock(mutex_);
  FeedReport report;
  runtime::Decision decision;
  Status failed;
  for (const BlockObserved& block : blocks) {
    failed = [&]() -> Status {
      LEAT_TRY(CheckChainId(block.chain()));
      LEAT_ASSIGN(const bool needs_log, ChainDecider::NeedsLog(shard_->state(), block));
      if (needs_log && shard_->HasStaged()) LEAT_TRY(shard_->Commit(true));
      decision.Clear();
      LEAT_TRY(decider_.Decide(shard_->state(), *shard_->log(), block, &decision, &report));
      LEAT_TRY(runtime::StageDecision(shard_.get(), &decider_, decision, nullptr));
      if (shard_->HasStaged() && shard_->log()->StagedBytes() >= kCommitBytes) {
        LEAT_TRY(shard_->Commit(true));
      }
      return {};
    }();
    if (!failed) break;
  }
  // Blocks before a bad one are taken.
  if (shard_->HasStaged()) LEAT_TRY(shard_->Commit(true));
  if (!failed) return std::unexpected(failed.error());
  return report;
}

Status ChainFeed::SubmitOpening(std::string_view chain,
                                const std::vector<std::pair<Address, Amount>>& balances) {
  std::lock_guard lock(mutex_);
  LEAT_TRY(CheckChainId(chain));
  constexpr size_t kBalancesPerPart = 16'384;
  const size_t parts = std::max<size_t>(1, (balances.size() + kBalancesPerPart - 1) /
                                               kBalancesPerPart);
  runtime::Decision decision;
  for (size_t part = 0; part < parts; ++part) {
    chain::v1::OpeningObserved opening;
    opening.set_chain(std::string(chain));
    opening.set_part(static_cast<uint32_t>(part + 1));
    opening.set_parts(static_cast<uint32_t>(parts));
    for (size_t i = part * kBalancesPerPart;
         i < std::min(balances.size(), (part + 1) * kBalancesPerPart); ++i) {
      auto* balance = opening.add_balances();
      balance->set_address(std::string(balances[i].first.View()));
      balance->set_balance_wei(balances[i].second.Magnitude());
    }
    decision.Add(ChainStream(chain), events::kOpeningObserved, 0, chain,
                 opening.SerializeAsString(), "opening/" + std::to_string(part + 1));
  }
  std::string digest, known;
  LEAT_ASSIGN(const bool opened, shard_->state().Get(ChainKey('o', chain), &known));
  // The first parts may be there: their owner lost the partition before the rest was published.
  size_t there = 0;
  for (size_t part = 0; part < parts; ++part) {
    digest = OpeningDigest(digest, decision.entries()[part].data);
    if (opened && known == digest) there = part + 1;
  }
  if (there == parts) return {};  // a repeated run
  LEAT_ASSIGN(const auto head, GetHead(shard_->state(), chain));
  if ((opened && there == 0) || head) {
    return Fail(ErrorClass::kConflict,
                "chain " + std::string(chain) +
                    (opened ? " has other opening balances" : " has blocks already"),
                "give opening balances once, with the first blocks of a chain");
  }
  runtime::Decision rest;
  for (size_t part = there; part < parts; ++part) {
    const auto& entry = decision.entries()[part];
    rest.Add(entry.stream, entry.type, entry.time_us, entry.key, entry.data, entry.id);
  }
  LEAT_TRY(runtime::StageDecision(shard_.get(), &decider_, rest, nullptr));
  return shard_->Commit(true);
}

Result<bool> ChainFeed::Knows(std::string_view chain, const Hash& hash) {
  std::lock_guard lock(mutex_);
  return ChainDecider::Knows(shard_->state(), chain, hash);
}

}  // namespace leat::ingest
