#include "producers/ingest/block_assembler.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>

#include "chain/v1/chain.pb.h"
#include "core/amount.h"
#include "core/hash.h"
#include "producers/ingest/blob_fee.h"
#include "producers/ingest/rows.h"

namespace leat::ingest {
namespace {

namespace pb = chain::v1;

constexpr std::string_view kMainnet = "eip155:1";
constexpr uint64_t kMainnetLondonBlock = 12'965'000;
constexpr uint64_t kMainnetShanghaiBlock = 17'034'870;
constexpr uint64_t kBlobGas = 131'072;   // of one blob, EIP-4844
constexpr uint64_t kDynamicFeeType = 2;  // EIP-1559; later types price alike
constexpr uint64_t kBlobType = 3;

struct TransactionDraft {
  std::string_view hash;
  Place place;         // of the first row that names it
  bool given = false;  // by a transaction row; else it is made from its root trace
  TransactionRow row;
  std::string_view content;
  bool has_receipt = false;
  ReceiptRow receipt;
  Place receipt_place;
  std::optional<uint64_t> index;
  uint32_t trace_begin = 0;
  uint32_t trace_end = 0;
  bool has_root = false;  // the first of the traces is the root
};

struct TraceDraft {
  uint32_t transaction;
  Place place;
  std::string_view content;
  TraceRow row;
};

struct WithdrawalDraft {
  Place place;
  std::string_view content;
  WithdrawalRow row;
};

// A fact about the block that rows other than its header tell.
template <typename T>
struct Learned {
  std::optional<T> value;
  Place place;
};

// Positions of transactions by hash: open addressing, sized beforehand, nothing allocated per
// entry.
class HashIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  void Reset(size_t entries_max) { slots_.assign(std::bit_ceil(2 * entries_max + 1), kNone); }
  // Where the position of `hash` is, or goes.
  uint32_t* Slot(std::string_view hash, const std::vector<TransactionDraft>& transactions) {
    size_t at;
    std::memcpy(&at, hash.data(), sizeof at);
    for (;; ++at) {
      uint32_t& slot = slots_[at & (slots_.size() - 1)];
      if (slot == kNone || transactions[slot].hash == hash) return &slot;
    }
  }

 private:
  std::vector<uint32_t> slots_;
};

// What becomes one block.
struct Draft {
  Hash hash;
  Place place;  // of the header
  std::optional<HeaderRow> header;
  std::string_view header_content;
  Hash excerpt_parent;  // for a synthetic header
  uint64_t arrival = 0;
  std::vector<TransactionDraft> transactions;
  HashIndex by_hash;
  std::vector<uint32_t> order;  // of the transactions
  std::vector<TraceDraft> traces;
  std::vector<TraceRow> system_transfers;
  std::vector<WithdrawalDraft> withdrawals;
  Learned<uint64_t> timestamp_s;
  Learned<std::string_view> miner;
  Learned<std::string_view> base_fee;

  void Reset(size_t rows) {
    header.reset();
    transactions.clear();
    by_hash.Reset(rows);
    order.clear();
    traces.clear();
    system_transfers.clear();
    withdrawals.clear();
    timestamp_s = {};
    miner = {};
    base_fee = {};
  }
  std::optional<std::string_view> BaseFee() const {
    return header ? header->base_fee_per_gas : base_fee.value;
  }
};

std::string BlockName(uint64_t number, const Hash& hash) {
  return "block " + std::to_string(number) + " " + hash.Hex();
}

// Takes what `other` knows and `fact` does not; false when they contradict each other.
template <typename T>
bool Unite(std::optional<T>* fact, const std::optional<T>& other) {
  if (!other) return true;
  if (!*fact) *fact = other;
  return **fact == *other;
}

uint64_t TypeOf(const TransactionRow& row) {
  return row.type.value_or(row.max_fee_per_gas ? kDynamicFeeType : 0);
}

// min(max_fee, base_fee + priority_fee).
std::string DynamicPrice(std::string_view max_fee, std::string_view priority_fee,
                         std::string_view base_fee) {
  const core::Amount limit = *core::Amount::FromBytes(max_fee);
  core::Amount price = *core::Amount::FromBytes(base_fee);
  const bool fits = price.CheckedAdd(*core::Amount::FromBytes(priority_fee));
  return (fits && price < limit ? price : limit).Magnitude();
}

pb::FrameKind FrameKindOf(TraceKind kind) {
  switch (kind) {
    case TraceKind::kDelegatecall:
      return pb::FRAME_DELEGATECALL;
    case TraceKind::kCallcode:
      return pb::FRAME_CALLCODE;
    case TraceKind::kStaticcall:
      return pb::FRAME_STATICCALL;
    case TraceKind::kCreate:
      return pb::FRAME_CREATE;
    case TraceKind::kSelfdestruct:
      return pb::FRAME_SELFDESTRUCT;
    default:
      return pb::FRAME_CALL;
  }
}

pb::SystemTransferKind SystemKindOf(TraceKind kind) {
  switch (kind) {
    case TraceKind::kGenesis:
      return pb::SYSTEM_TRANSFER_GENESIS;
    case TraceKind::kBlockReward:
      return pb::SYSTEM_TRANSFER_BLOCK_REWARD;
    case TraceKind::kUncleReward:
      return pb::SYSTEM_TRANSFER_UNCLE_REWARD;
    case TraceKind::kIrregular:
      return pb::SYSTEM_TRANSFER_IRREGULAR;
    default:
      return pb::SYSTEM_TRANSFER_OTHER_REWARD;
  }
}

void Assign(std::string* to, std::string_view bytes) { to->assign(bytes.data(), bytes.size()); }

}  // namespace

struct BlockAssembler::Impl {
  explicit Impl(Options assembler_options) : options(std::move(assembler_options)) {}

  // Errors.
  std::string Where(Place place) const {
    return options.files[place.file()] + ":" + std::to_string(place.line());
  }
  std::unexpected<Error> Bad(Place place, const std::string& what, std::string remedy) const {
    return Invalid(Where(place) + ": " + what, std::move(remedy));
  }
  std::unexpected<Error> Differs(const std::string& what, Place first, Place second) const {
    return Bad(second, what + " says something else than at " + Where(first),
               "identical rows are taken once; keep the right one of these");
  }

  // The steps of Assemble.
  Status FindHeaders();
  Status FindExcerptBlock();
  Status CheckParents();
  Result<Draft*> DraftOf(const PackedRow& row, std::string_view transaction_hash);
  Status AddTransaction(const PackedRow& row);
  Status AddReceipt(const PackedRow& row);
  Status AddTrace(const PackedRow& row);
  Status AddSystemTransfer(Draft* draft, const PackedRow& row, const TraceRow& trace);
  Status AddWithdrawal(const PackedRow& row);
  Result<uint32_t> TransactionOf(Draft* draft, const PackedRow& row, std::string_view hash);
  Status LearnIndex(TransactionDraft* transaction, const std::optional<uint64_t>& index,
                    Place place) const;
  template <typename T>
  Status Learn(Learned<T>* fact, const std::optional<T>& seen, std::string_view field,
               Place place) const;
  Status SortTraces(Draft* draft);
  Status CheckTransactions(Draft* draft);
  Status CheckFees(const Draft& draft) const;
  Status SortTransactions(Draft* draft);
  Status SortWithdrawals(Draft* draft);
  Draft* NewDraft();

  // The parts of Build.
  void BuildHeader(const Draft& draft, pb::Header* header) const;
  void BuildTransaction(const Draft& draft, const TransactionDraft& from, uint32_t index,
                        std::optional<std::optional<core::Amount>>* blob_price,
                        pb::Transaction* to) const;
  std::optional<std::string> EffectivePrice(const Draft& draft, const TransactionDraft& from) const;
  pb::Coverage CoverageOf(const Draft& draft, const pb::BlockObserved& block) const;

  Options options;
  uint64_t number = 0;
  std::vector<PackedRow> rows;
  std::vector<std::unique_ptr<Draft>> drafts;  // kept from height to height for their memory
  size_t draft_count = 0;
  std::vector<uint32_t> turns;
  bool first_height = true;
  // What the height before left.
  struct Parent {
    Hash hash;
    uint64_t arrival;
  };
  uint64_t parents_number = 0;
  std::vector<Parent> parents;
  // System transfers of this height that were taken: by trace id, and by content where there is
  // none.
  struct Occurrences {
    uint32_t file = 0;
    uint32_t in_file = 0;
    uint32_t taken = 0;
  };
  std::vector<std::unordered_map<std::string_view, std::pair<std::string_view, Place>>> by_trace_id;
  std::vector<std::unordered_map<std::string_view, Occurrences>> by_content;
  uint64_t receipts = 0;  // of this height
};

BlockAssembler::BlockAssembler(Options options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
BlockAssembler::~BlockAssembler() = default;

size_t BlockAssembler::size() const { return impl_->turns.size(); }

BlockAssembler::Turn BlockAssembler::turn(size_t i) const {
  const Draft& draft = *impl_->drafts[impl_->turns[i]];
  return {draft.arrival, impl_->number, draft.place.value};
}

Status BlockAssembler::Assemble(uint64_t number, std::span<const std::string_view> records) {
  Impl& impl = *impl_;
  LEAT_ASSERT(!records.empty() && (impl.first_height || number > impl.number));
  impl.number = number;
  impl.draft_count = 0;
  impl.receipts = 0;
  impl.rows.clear();
  for (const std::string_view record : records) impl.rows.push_back(Unpack(record));
  LEAT_TRY(impl.FindHeaders());
  if (impl.options.excerpt) {
    LEAT_TRY(impl.FindExcerptBlock());
  } else {
    LEAT_TRY(impl.CheckParents());
  }
  impl.by_trace_id.assign(impl.draft_count, {});
  impl.by_content.assign(impl.draft_count, {});

  // Transactions first: receipts and traces are looked up among them.
  for (const PackedRow& row : impl.rows) {
    if (row.kind == RowKind::kTransaction) LEAT_TRY(impl.AddTransaction(row));
  }
  for (const PackedRow& row : impl.rows) {
    if (row.kind == RowKind::kReceipt) LEAT_TRY(impl.AddReceipt(row));
  }
  for (const PackedRow& row : impl.rows) {
    if (row.kind == RowKind::kTrace) LEAT_TRY(impl.AddTrace(row));
    if (row.kind == RowKind::kWithdrawal) LEAT_TRY(impl.AddWithdrawal(row));
  }
  counts_.receipts += impl.receipts;
  for (size_t i = 0; i < impl.draft_count; ++i) {
    Draft& draft = *impl.drafts[i];
    LEAT_TRY(impl.SortTraces(&draft));
    LEAT_TRY(impl.CheckTransactions(&draft));
    LEAT_TRY(impl.CheckFees(draft));
    LEAT_TRY(impl.SortTransactions(&draft));
    LEAT_TRY(impl.SortWithdrawals(&draft));
    counts_.transactions += draft.transactions.size();
    counts_.traces += draft.traces.size() + draft.system_transfers.size();
    counts_.withdrawals += draft.withdrawals.size();
  }
  counts_.blocks += impl.draft_count;
  counts_.fork_blocks += impl.draft_count - 1;

  impl.turns.clear();
  for (uint32_t i = 0; i < impl.draft_count; ++i) impl.turns.push_back(i);
  std::sort(impl.turns.begin(), impl.turns.end(), [&](uint32_t a, uint32_t b) {
    const Draft& left = *impl.drafts[a];
    const Draft& right = *impl.drafts[b];
    return std::pair(left.arrival, left.place) < std::pair(right.arrival, right.place);
  });
  impl.parents.clear();
  for (size_t i = 0; i < impl.draft_count; ++i) {
    impl.parents.push_back({impl.drafts[i]->hash, impl.drafts[i]->arrival});
  }
  impl.parents_number = number;
  impl.first_height = false;
  return {};
}

Draft* BlockAssembler::Impl::NewDraft() {
  if (draft_count == drafts.size()) drafts.push_back(std::make_unique<Draft>());
  Draft* draft = drafts[draft_count++].get();
  draft->Reset(rows.size());
  return draft;
}

Status BlockAssembler::Impl::FindHeaders() {
  for (const PackedRow& row : rows) {
    if (row.kind != RowKind::kBlock) continue;
    const Hash hash = Hash::From(row.block_hash);
    const auto end = drafts.begin() + static_cast<ptrdiff_t>(draft_count);
    const auto same =
        std::find_if(drafts.begin(), end, [&](const auto& draft) { return draft->hash == hash; });
    if (same != end) {
      if ((*same)->header_content != row.content) {
        return Differs("the header of " + BlockName(number, hash), (*same)->place, row.place);
      }
      continue;
    }
    if (draft_count == kBlocksPerHeightMax) {
      return Bad(row.place,
                 "more than " + std::to_string(kBlocksPerHeightMax) + " blocks of number " +
                     std::to_string(number),
                 "check the number column");
    }
    Draft* draft = NewDraft();
    draft->hash = hash;
    draft->place = row.place;
    draft->header = HeaderRow(row.content);
    draft->header_content = row.content;
    draft->arrival = row.place.value;
  }
  return {};
}

// An excerpt has one block at a height, with or without a header.
Status BlockAssembler::Impl::FindExcerptBlock() {
  const PackedRow* first = nullptr;
  for (const PackedRow& row : rows) {
    if (row.block_hash.empty()) continue;
    if (first == nullptr) first = &row;
    if (row.block_hash != first->block_hash) {
      return Bad(row.place,
                 BlockName(number, Hash::From(row.block_hash)) + " beside " +
                     Hash::From(first->block_hash).Hex() + " of the same number at " +
                     Where(first->place),
                 "an excerpt cannot reorganise: leave one of them out, or give a segment with all "
                 "headers, without --excerpt");
    }
  }
  Draft* draft = draft_count == 0 ? NewDraft() : drafts.front().get();
  if (!draft->header) {
    draft->hash =
        first != nullptr
            ? Hash::From(first->block_hash)
            : core::Keccak256("leat.excerpt|" + options.chain + "|" + std::to_string(number));
    draft->place = rows.front().place;
  }
  draft->arrival = 0;  // excerpts come in the order of their numbers
  draft->excerpt_parent = first_height ? Hash() : parents.front().hash;
  return {};
}

Status BlockAssembler::Impl::CheckParents() {
  if (draft_count == 0) {
    const PackedRow& row = rows.front();
    return Bad(row.place,
               "a " + std::string(RowKindName(row.kind)) + " of block " + std::to_string(number) +
                   ", which has no header in the input",
               "add the blocks file that holds it, or use --excerpt");
  }
  const bool parents_here = !first_height && parents_number + 1 == number;
  for (size_t i = 0; i < draft_count; ++i) {
    Draft& draft = *drafts[i];
    const Hash parent = Hash::From(draft.header->parent_hash);
    const auto found = parents_here
                           ? std::find_if(parents.begin(), parents.end(),
                                          [&](const Parent& other) { return other.hash == parent; })
                           : parents.end();
    if (draft_count > 1 && !draft.header->difficulty && !draft.header->total_difficulty) {
      return Bad(draft.place,
                 BlockName(number, draft.hash) + " is one of " + std::to_string(draft_count) +
                     " of its number, and has no difficulty",
                 "give the columns difficulty or total_difficulty");
    }
    if (found != parents.end()) {
      draft.arrival = std::max(draft.arrival, found->arrival);
      continue;
    }
    // A chain may begin anywhere, but only once.
    if (first_height && draft_count == 1 && !options.chain_begun) continue;
    if (options.known_block) {
      LEAT_ASSIGN(const bool parent_known, options.known_block(parent));
      if (parent_known) continue;
      LEAT_ASSIGN(const bool itself_known, options.known_block(draft.hash));
      if (itself_known) continue;
    }
    return Invalid(BlockName(number, draft.hash) + " (" + Where(draft.place) + "): its parent " +
                       parent.Hex() + " is not " + (first_height ? "known" : "in the input"),
                   number == 0 ? "the chain begins with another block: use another data folder"
                               : "add the file with the header of block " +
                                     std::to_string(number - 1) +
                                     ", or use --excerpt for blocks with gaps");
  }
  return {};
}

Result<Draft*> BlockAssembler::Impl::DraftOf(const PackedRow& row,
                                             std::string_view transaction_hash) {
  if (!row.block_hash.empty()) {
    for (size_t i = 0; i < draft_count; ++i) {
      if (drafts[i]->hash.View() == row.block_hash) return drafts[i].get();
    }
    return Bad(row.place,
               "a " + std::string(RowKindName(row.kind)) + " of " +
                   BlockName(number, Hash::From(row.block_hash)) +
                   ", which has no header in the input",
               "add the blocks file that holds it, or check the block_hash");
  }
  if (draft_count == 1) return drafts.front().get();
  Draft* found = nullptr;
  if (!transaction_hash.empty()) {
    size_t candidates = 0;
    for (size_t i = 0; i < draft_count; ++i) {
      Draft& draft = *drafts[i];
      if (*draft.by_hash.Slot(transaction_hash, draft.transactions) == HashIndex::kNone) continue;
      found = &draft;
      ++candidates;
    }
    if (candidates == 1) return found;
  }
  std::string what = "a " + std::string(RowKindName(row.kind));
  if (!transaction_hash.empty()) {
    what += " of transaction " + Hash::From(transaction_hash).Hex();
  }
  return Bad(row.place,
             what + " has no block_hash, and may belong to any of the " +
                 std::to_string(draft_count) + " blocks of number " + std::to_string(number),
             "give the rows of this kind a block_hash column");
}

Status BlockAssembler::Impl::LearnIndex(TransactionDraft* transaction,
                                        const std::optional<uint64_t>& index, Place place) const {
  if (index && *index > UINT32_MAX) {
    return Bad(place, "field transaction_index: " + std::to_string(*index) + " is beyond 2^32-1",
               "check the column");
  }
  if (Unite(&transaction->index, index)) return {};
  return Differs("field transaction_index of transaction " + Hash::From(transaction->hash).Hex(),
                 transaction->place, place);
}

// What rows say of a block matters only when it has no header.
template <typename T>
Status BlockAssembler::Impl::Learn(Learned<T>* fact, const std::optional<T>& seen,
                                   std::string_view field, Place place) const {
  if (!seen) return {};
  if (!fact->value) fact->place = place;
  if (Unite(&fact->value, seen)) return {};
  return Differs("field " + std::string(field) + " of block " + std::to_string(number), fact->place,
                 place);
}

Status BlockAssembler::Impl::AddTransaction(const PackedRow& row) {
  const TransactionRow transaction(row.content);
  LEAT_ASSIGN(Draft* const draft, DraftOf(row, {}));
  uint32_t* const slot = draft->by_hash.Slot(transaction.hash, draft->transactions);
  if (*slot != HashIndex::kNone) {
    const TransactionDraft& same = draft->transactions[*slot];
    if (same.content == row.content) return {};
    return Differs("transaction " + Hash::From(transaction.hash).Hex() + " of " +
                       BlockName(number, draft->hash),
                   same.place, row.place);
  }
  *slot = static_cast<uint32_t>(draft->transactions.size());
  TransactionDraft& added = draft->transactions.emplace_back();
  added.hash = transaction.hash;
  added.place = row.place;
  added.given = true;
  added.row = transaction;
  added.content = row.content;
  LEAT_TRY(LearnIndex(&added, transaction.index, row.place));
  if (draft->header) return {};
  return Learn(&draft->timestamp_s, transaction.block_timestamp_s, "block_timestamp", row.place);
}

// The transaction that a receipt or trace is about; made when only they tell of it.
Result<uint32_t> BlockAssembler::Impl::TransactionOf(Draft* draft, const PackedRow& row,
                                                     std::string_view hash) {
  uint32_t* const slot = draft->by_hash.Slot(hash, draft->transactions);
  if (*slot != HashIndex::kNone) return *slot;
  if (options.transactions_given && !options.excerpt) {
    return Bad(row.place,
               "a " + std::string(RowKindName(row.kind)) + " of transaction " +
                   Hash::From(hash).Hex() + ", which is not in " + BlockName(number, draft->hash),
               "give the transactions file that holds it");
  }
  *slot = static_cast<uint32_t>(draft->transactions.size());
  TransactionDraft& added = draft->transactions.emplace_back();
  added.hash = hash;
  added.place = row.place;
  return *slot;
}

Status BlockAssembler::Impl::AddReceipt(const PackedRow& row) {
  const ReceiptRow receipt(row.content);
  LEAT_ASSIGN(Draft* const draft, DraftOf(row, receipt.transaction_hash));
  LEAT_ASSIGN(const uint32_t position, TransactionOf(draft, row, receipt.transaction_hash));
  TransactionDraft& transaction = draft->transactions[position];
  if (!draft->header) {
    LEAT_TRY(Learn(&draft->timestamp_s, receipt.block_timestamp_s, "block_timestamp", row.place));
    LEAT_TRY(Learn(&draft->miner, receipt.miner, "miner", row.place));
    LEAT_TRY(Learn(&draft->base_fee, receipt.base_fee_per_gas, "base_fee_per_gas", row.place));
  }
  LEAT_TRY(LearnIndex(&transaction, receipt.index, row.place));
  if (!transaction.has_receipt) {
    transaction.has_receipt = true;
    transaction.receipt = receipt;
    transaction.receipt_place = row.place;
    ++receipts;
    return {};
  }
  // A receipt may come twice with different columns: beside its transaction and in a file of its
  // own.
  ReceiptRow& known = transaction.receipt;
  const bool agree = known.gas_used == receipt.gas_used && Unite(&known.success, receipt.success) &&
                     Unite(&known.effective_gas_price, receipt.effective_gas_price) &&
                     Unite(&known.contract_address, receipt.contract_address) &&
                     Unite(&known.blob_gas_used, receipt.blob_gas_used) &&
                     Unite(&known.blob_gas_price, receipt.blob_gas_price);
  if (agree) return {};
  return Differs("the receipt of transaction " + Hash::From(receipt.transaction_hash).Hex(),
                 transaction.receipt_place, row.place);
}

Status BlockAssembler::Impl::AddTrace(const PackedRow& row) {
  const TraceRow trace(row.content);
  LEAT_ASSIGN(Draft* const draft, DraftOf(row, trace.transaction_hash));
  if (!draft->header) {
    LEAT_TRY(Learn(&draft->timestamp_s, trace.block_timestamp_s, "block_timestamp", row.place));
  }
  if (IsSystemTransfer(trace.kind)) return AddSystemTransfer(draft, row, trace);
  LEAT_ASSIGN(const uint32_t position, TransactionOf(draft, row, trace.transaction_hash));
  LEAT_TRY(LearnIndex(&draft->transactions[position], trace.index, row.place));
  draft->traces.push_back({position, row.place, row.content, trace});
  return {};
}

// Rewards have no key of their own unless the export gives them a trace_id: one miner may well get
// two equal uncle rewards in a block. Without one, equal rows of one file all count, and those of
// another file are the same rows again.
Status BlockAssembler::Impl::AddSystemTransfer(Draft* draft, const PackedRow& row,
                                               const TraceRow& trace) {
  size_t at = 0;
  while (drafts[at].get() != draft) ++at;
  if (!trace.trace_id.empty()) {
    const auto [same, is_new] = by_trace_id[at].try_emplace(trace.trace_id, row.content, row.place);
    if (!is_new) {
      if (same->second.first == row.content) return {};
      return Differs("the trace " + std::string(trace.trace_id), same->second.second, row.place);
    }
  } else {
    Occurrences& seen = by_content[at][row.content];
    if (seen.file != row.place.file()) {
      seen.file = row.place.file();
      seen.in_file = 0;
    }
    if (++seen.in_file <= seen.taken) return {};
    ++seen.taken;
  }
  draft->system_transfers.push_back(trace);
  return {};
}

Status BlockAssembler::Impl::AddWithdrawal(const PackedRow& row) {
  LEAT_ASSIGN(Draft* const draft, DraftOf(row, {}));
  draft->withdrawals.push_back({row.place, row.content, WithdrawalRow(row.content)});
  return {};
}

// By transaction and trace address; gives each transaction its range of them.
Status BlockAssembler::Impl::SortTraces(Draft* draft) {
  auto& traces = draft->traces;
  if (traces.empty()) return {};
  const auto before = [](const TraceDraft& a, const TraceDraft& b) {
    return a.transaction != b.transaction ? a.transaction < b.transaction
                                          : a.row.trace_address < b.row.trace_address;
  };
  if (!std::is_sorted(traces.begin(), traces.end(), before)) {
    std::stable_sort(traces.begin(), traces.end(), before);
  }
  size_t kept = 1;
  for (size_t i = 1; i < traces.size(); ++i) {
    const TraceDraft& last = traces[kept - 1];
    if (before(last, traces[i])) {
      traces[kept++] = traces[i];
    } else if (last.content != traces[i].content) {
      std::string address;
      for (size_t at = 0; at < last.row.trace_address.size(); at += 4) {
        address += (at == 0 ? "" : ",") +
                   std::to_string(core::LoadBigEndian32(last.row.trace_address.data() + at));
      }
      return Differs("the trace with trace_address \"" + address + "\" of transaction " +
                         Hash::From(last.row.transaction_hash).Hex(),
                     last.place, traces[i].place);
    }
  }
  traces.resize(kept);
  for (uint32_t begin = 0; begin < kept;) {
    uint32_t end = begin + 1;
    while (end < kept && traces[end].transaction == traces[begin].transaction) ++end;
    TransactionDraft& transaction = draft->transactions[traces[begin].transaction];
    transaction.trace_begin = begin;
    transaction.trace_end = end;
    transaction.has_root = traces[begin].row.trace_address.empty();
    begin = end;
  }
  return {};
}

Status BlockAssembler::Impl::CheckTransactions(Draft* draft) {
  for (const TransactionDraft& transaction : draft->transactions) {
    if (transaction.given || transaction.has_root) continue;
    return Bad(transaction.place,
               "transaction " + Hash::From(transaction.hash).Hex() + " of block " +
                   std::to_string(number) + " has neither a transaction row nor a root trace",
               "give the transactions file, or the traces with an empty trace_address");
  }
  if (!draft->header || !draft->header->transaction_count) return {};
  const uint64_t announced = *draft->header->transaction_count;
  if (announced == draft->transactions.size()) return {};
  if (options.excerpt && !options.transactions_given) return {};  // CoverageOf says so
  return Bad(draft->place,
             BlockName(number, draft->hash) + ": transaction_count is " +
                 std::to_string(announced) + ", but the input has " +
                 std::to_string(draft->transactions.size()) + " transactions of it",
             options.transactions_given
                 ? "give all transactions of the block"
                 : "give the transactions file, or traces of all of them, or use --excerpt");
}

// What its transactions pay has to fit 256 bits, as every amount does.
Status BlockAssembler::Impl::CheckFees(const Draft& draft) const {
  const auto fits = [](uint64_t multiplier, std::string_view price) {
    constexpr size_t kAlwaysFits = core::Amount::kWireBytesMax - sizeof multiplier;
    if (price.size() <= kAlwaysFits) return true;
    auto cost = core::Amount::FromBytes(price);
    return cost.has_value() && cost->CheckedMultiply(core::Amount(multiplier));
  };
  const std::string base_fee(draft.BaseFee().value_or(""));
  for (const TransactionDraft& transaction : draft.transactions) {
    if (!transaction.has_receipt) continue;
    const ReceiptRow& receipt = transaction.receipt;
    const char* field = nullptr;
    if (!fits(receipt.gas_used, EffectivePrice(draft, transaction).value_or(""))) {
      field = "effective gas price";
    } else if (!fits(receipt.gas_used, base_fee)) {
      field = "base_fee_per_gas";
    } else if (!fits(receipt.blob_gas_used.value_or(0), receipt.blob_gas_price.value_or(""))) {
      field = "blob_gas_price";
    }
    if (field == nullptr) continue;
    return Bad(transaction.receipt_place,
               "transaction " + Hash::From(transaction.hash).Hex() + ": gas times " + field +
                   " exceeds 256 bits",
               "check the columns of gas and of prices");
  }
  return {};
}

std::optional<std::string> BlockAssembler::Impl::EffectivePrice(
    const Draft& draft, const TransactionDraft& from) const {
  const TransactionRow& row = from.row;
  if (from.receipt.effective_gas_price) return std::string(*from.receipt.effective_gas_price);
  const auto base_fee = draft.BaseFee();
  if (TypeOf(row) >= kDynamicFeeType && row.max_fee_per_gas && row.max_priority_fee_per_gas &&
      base_fee) {
    return DynamicPrice(*row.max_fee_per_gas, *row.max_priority_fee_per_gas, *base_fee);
  }
  if (row.gas_price) return std::string(*row.gas_price);  // of a mined transaction, the effective one
  return std::nullopt;
}

Status BlockAssembler::Impl::SortTransactions(Draft* draft) {
  const auto& transactions = draft->transactions;
  auto& order = draft->order;
  for (uint32_t i = 0; i < transactions.size(); ++i) order.push_back(i);
  if (order.empty()) return {};
  const bool indexed = transactions.front().index.has_value();
  for (const TransactionDraft& transaction : transactions) {
    if (transaction.index.has_value() == indexed) continue;
    return Bad(transaction.place,
               "transaction " + Hash::From(transaction.hash).Hex() + (indexed ? " lacks" : " has") +
                   " a transaction_index, others of block " + std::to_string(number) + " do " +
                   (indexed ? "not" : ""),
               "give all of them a transaction_index, or none");
  }
  if (!indexed) return {};  // in the order of appearance
  const auto before = [&](uint32_t a, uint32_t b) {
    return *transactions[a].index < *transactions[b].index;
  };
  if (!std::is_sorted(order.begin(), order.end(), before)) {
    std::sort(order.begin(), order.end(), before);
  }
  for (size_t i = 1; i < order.size(); ++i) {
    if (before(order[i - 1], order[i])) continue;
    const TransactionDraft& second = transactions[order[i]];
    return Bad(second.place,
               "transaction " + Hash::From(second.hash).Hex() + " has the transaction_index " +
                   std::to_string(*second.index) + " of another one in block " +
                   std::to_string(number) + ", at " + Where(transactions[order[i - 1]].place),
               "check the column");
  }
  return {};
}

Status BlockAssembler::Impl::SortWithdrawals(Draft* draft) {
  auto& withdrawals = draft->withdrawals;
  if (withdrawals.empty()) return {};
  std::stable_sort(
      withdrawals.begin(), withdrawals.end(),
      [](const WithdrawalDraft& a, const WithdrawalDraft& b) { return a.row.index < b.row.index; });
  size_t kept = 1;
  for (size_t i = 1; i < withdrawals.size(); ++i) {
    const WithdrawalDraft& last = withdrawals[kept - 1];
    if (last.row.index != withdrawals[i].row.index) {
      withdrawals[kept++] = withdrawals[i];
    } else if (last.content != withdrawals[i].content) {
      return Differs(
          "withdrawal " + std::to_string(last.row.index) + " of block " + std::to_string(number),
          last.place, withdrawals[i].place);
    }
  }
  withdrawals.resize(kept);
  return {};
}

void BlockAssembler::Build(size_t i, pb::BlockObserved* block) const {
  const Draft& draft = *impl_->drafts[impl_->turns[i]];
  block->Clear();
  block->set_chain(impl_->options.chain);
  block->set_part(1);
  block->set_parts(1);
  impl_->BuildHeader(draft, block->mutable_header());
  std::optional<std::optional<core::Amount>> blob_price;  // reckoned when the first needs it
  for (uint32_t at = 0; at < draft.order.size(); ++at) {
    const TransactionDraft& from = draft.transactions[draft.order[at]];
    const uint32_t index = from.index ? static_cast<uint32_t>(*from.index) : at;
    impl_->BuildTransaction(draft, from, index, &blob_price, block->add_transactions());
  }
  for (const TraceRow& from : draft.system_transfers) {
    pb::SystemTransfer* to = block->add_system_transfers();
    to->set_kind(SystemKindOf(from.kind));
    Assign(to->mutable_from(), from.from);
    Assign(to->mutable_to(), from.to);
    Assign(to->mutable_value(), from.value);
  }
  for (const WithdrawalDraft& from : draft.withdrawals) {
    pb::Withdrawal* to = block->add_withdrawals();
    to->set_index(from.row.index);
    to->set_validator_index(from.row.validator_index);
    Assign(to->mutable_address(), from.row.address);
    to->set_amount_gwei(from.row.amount_gwei);
  }
  block->set_excerpt(impl_->options.excerpt);
  *block->mutable_coverage() = impl_->CoverageOf(draft, *block);
}

void BlockAssembler::Impl::BuildHeader(const Draft& draft, pb::Header* to) const {
  to->set_number(number);
  Assign(to->mutable_hash(), draft.hash.View());
  if (!draft.header) {
    to->set_synthetic(true);
    Assign(to->mutable_parent_hash(), draft.excerpt_parent.View());
    to->set_timestamp_s(draft.timestamp_s.value.value_or(0));
    if (draft.miner.value) Assign(to->mutable_miner(), *draft.miner.value);
    if (draft.base_fee.value) Assign(to->mutable_base_fee_per_gas(), *draft.base_fee.value);
    return;
  }
  const HeaderRow& from = *draft.header;
  Assign(to->mutable_parent_hash(), from.parent_hash);
  Assign(to->mutable_miner(), from.miner);
  to->set_timestamp_s(from.timestamp_s);
  if (from.difficulty) Assign(to->mutable_difficulty(), *from.difficulty);
  if (from.total_difficulty) Assign(to->mutable_total_difficulty(), *from.total_difficulty);
  if (from.base_fee_per_gas) Assign(to->mutable_base_fee_per_gas(), *from.base_fee_per_gas);
  if (from.state_root) Assign(to->mutable_state_root(), *from.state_root);
  to->set_gas_limit(from.gas_limit);
  to->set_gas_used(from.gas_used);
  if (from.blob_gas_used) to->set_blob_gas_used(*from.blob_gas_used);
  if (from.excess_blob_gas) to->set_excess_blob_gas(*from.excess_blob_gas);
}

void BlockAssembler::Impl::BuildTransaction(const Draft& draft, const TransactionDraft& from,
                                            uint32_t index,
                                            std::optional<std::optional<core::Amount>>* blob_price,
                                            pb::Transaction* to) const {
  const TransactionRow& row = from.row;
  const TraceRow* const root = from.has_root ? &draft.traces[from.trace_begin].row : nullptr;
  const bool creates = root != nullptr && root->kind == TraceKind::kCreate;
  Assign(to->mutable_hash(), from.hash);
  to->set_index(index);
  if (from.given) {
    Assign(to->mutable_from(), row.from);
    Assign(to->mutable_to(), row.to);
    Assign(to->mutable_value(), row.value);
  } else {
    Assign(to->mutable_from(), root->from);
    if (!creates) Assign(to->mutable_to(), root->to);
    Assign(to->mutable_value(), root->value);
  }
  to->set_nonce(row.nonce);
  to->set_gas(row.gas);
  const uint64_t type = TypeOf(row);
  to->set_type(static_cast<uint32_t>(type));
  to->set_input_length(static_cast<uint32_t>(row.input_length));
  Assign(to->mutable_input_selector(), row.input_selector);
  Assign(to->mutable_input_hash(), row.input_hash);

  // What it paid.
  const ReceiptRow& receipt = from.receipt;
  if (from.has_receipt) to->set_gas_used(receipt.gas_used);
  if (auto price = EffectivePrice(draft, from)) to->set_effective_gas_price(*std::move(price));
  if (receipt.blob_gas_used) {
    to->set_blob_gas_used(*receipt.blob_gas_used);
  } else if (type == kBlobType && row.blob_count) {
    to->set_blob_gas_used(kBlobGas * *row.blob_count);
  }
  if (receipt.blob_gas_price) {
    Assign(to->mutable_blob_gas_price(), *receipt.blob_gas_price);
  } else if (to->blob_gas_used() > 0 && draft.header && draft.header->excess_blob_gas) {
    if (!*blob_price) {
      *blob_price =
          BlobGasPrice(options.chain, draft.header->timestamp_s, *draft.header->excess_blob_gas);
    }
    if (**blob_price) to->set_blob_gas_price((**blob_price)->Magnitude());
  }

  // What came of it.
  if (receipt.success) {
    to->set_outcome(*receipt.success ? pb::OUTCOME_SUCCESS : pb::OUTCOME_FAILURE);
  } else if (root != nullptr) {
    to->set_outcome(root->failed ? pb::OUTCOME_FAILURE : pb::OUTCOME_SUCCESS);
  }
  if (receipt.contract_address) {
    Assign(to->mutable_created(), *receipt.contract_address);
  } else if (creates) {
    Assign(to->mutable_created(), root->to);
  }
  to->set_traced(from.trace_end > from.trace_begin);
  for (uint32_t at = from.trace_begin; at < from.trace_end; ++at) {
    const TraceRow& trace = draft.traces[at].row;
    if (trace.value.empty() && !trace.failed) continue;
    pb::Frame* frame = to->add_frames();
    frame->set_kind(FrameKindOf(trace.kind));
    for (size_t step = 0; step < trace.trace_address.size(); step += 4) {
      frame->add_trace_address(core::LoadBigEndian32(trace.trace_address.data() + step));
    }
    Assign(frame->mutable_from(), trace.from);
    Assign(frame->mutable_to(), trace.to);
    Assign(frame->mutable_value(), trace.value);
    frame->set_failed(trace.failed);
  }
}

pb::Coverage BlockAssembler::Impl::CoverageOf(const Draft& draft,
                                              const pb::BlockObserved& block) const {
  pb::Coverage coverage;
  // Whether all transactions are here, as far as the header tells.
  const auto& header = draft.header;
  const auto count = static_cast<uint64_t>(block.transactions_size());
  const bool complete =
      !header || (header->transaction_count ? *header->transaction_count == count
                                            : count > 0 || header->gas_used == 0);
  bool receipts_known = complete;
  bool traces_known = complete;
  bool statuses_known = complete;
  for (const pb::Transaction& transaction : block.transactions()) {
    receipts_known &= transaction.has_gas_used() && transaction.has_effective_gas_price();
    receipts_known &= !transaction.has_blob_gas_used() || transaction.has_blob_gas_price();
    traces_known &= transaction.traced();
    statuses_known &= transaction.outcome() != pb::OUTCOME_UNKNOWN;
  }
  coverage.set_transaction_count(static_cast<uint32_t>(block.transactions_size()));
  coverage.set_receipts(receipts_known);
  coverage.set_traces(traces_known);
  coverage.set_statuses(statuses_known);

  const auto has_transfer = [&](TraceKind kind) {
    return std::any_of(draft.system_transfers.begin(), draft.system_transfers.end(),
                       [&](const TraceRow& transfer) { return transfer.kind == kind; });
  };
  // Difficulty 0 is proof of stake: such a block has no reward.
  const bool staked = draft.header && draft.header->difficulty && draft.header->difficulty->empty();
  coverage.set_rewards(number == 0 ? has_transfer(TraceKind::kGenesis)
                                   : staked || has_transfer(TraceKind::kBlockReward));
  const bool before_base_fees =
      options.chain == kMainnet ? number < kMainnetLondonBlock : draft.header.has_value();
  coverage.set_base_fee(draft.BaseFee().has_value() || before_base_fees);
  const bool may_have_withdrawals =
      options.chain == kMainnet ? number >= kMainnetShanghaiBlock
                                : header && header->has_withdrawals;
  const bool withdrawals_given = block.withdrawals_size() > 0 ||
                                 (header && header->lists_withdrawals) ||
                                 (options.withdrawals_given && !(header && header->has_withdrawals));
  coverage.set_withdrawals_missing(may_have_withdrawals && !withdrawals_given);
  return coverage;
}

}  // namespace leat::ingest
