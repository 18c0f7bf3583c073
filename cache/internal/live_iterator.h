// Iteration over the live entries of a weak container.
#ifndef WEAKCACHE_CACHE_INTERNAL_LIVE_ITERATOR_H_
#define WEAKCACHE_CACHE_INTERNAL_LIVE_ITERATOR_H_

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace weakcache::internal {

// Holds a strong reference to the object that it stands on. `Entry` is made from that reference and
// the slot. Survives insertions, erasures and expiries, but not the container's move or end.
template <typename Table, typename StrongRef, typename Entry>
class LiveIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using difference_type = std::ptrdiff_t;
  using value_type = Entry;

  explicit LiveIterator(const Table* table) : table_(table) { FindLive(); }

  Entry operator*() const { return Entry(*slot_, referent_); }

  LiveIterator& operator++() {
    ++position_;
    FindLive();
    return *this;
  }
  void operator++(int) { ++*this; }

  friend bool operator==(const LiveIterator& iterator, std::default_sentinel_t) {
    return iterator.slot_ == nullptr;
  }

 private:
  void FindLive() {
    // First let go: a destructor that runs here may erase what would be next.
    referent_.reset();
    while ((slot_ = table_->Next(position_)) != nullptr) {
      referent_ = slot_->referent().lock();
      if (referent_ != nullptr) return;
      ++position_;
    }
  }

  const Table* table_;
  uint32_t position_ = 0;
  typename Table::Slot* slot_ = nullptr;
  StrongRef referent_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LIVE_ITERATOR_H_
