// SPDX-License-Identifier: Apache-2.0
// A doubly linked list of pages, each of which is in one list at most.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_LIST_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_LIST_H_

namespace weakcache::internal {

// Page has a function links() that returns a PageLinks<Page>&.
template <typename Page>
class PageList;

template <typename Page>
struct PageLinks {
  PageList<Page>* list = nullptr;  // null: in none
  Page* next = nullptr;
  Page* previous = nullptr;
};

template <typename Page>
class PageList {
 public:
  Page* front() const { return front_; }
  Page* back() const { return back_; }

  // Moves a page to the front of a list, or out of all lists if `list` is null. Leaves it where it
  // is if it is in that list.
  static void Move(Page* page, PageList* list) {
    PageLinks<Page>& links = page->links();
    if (links.list == list) return;
    if (links.list != nullptr) links.list->Remove(links);
    links = {list};
    if (list != nullptr) list->PushFront(page);
  }

 private:
  void PushFront(Page* page) {
    page->links().next = front_;
    (front_ == nullptr ? back_ : front_->links().previous) = page;
    front_ = page;
  }
  void Remove(const PageLinks<Page>& links) {
    (links.previous == nullptr ? front_ : links.previous->links().next) = links.next;
    (links.next == nullptr ? back_ : links.next->links().previous) = links.previous;
  }

  Page* front_ = nullptr;
  Page* back_ = nullptr;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_LIST_H_
