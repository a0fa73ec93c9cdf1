/* Functions that are inline in PostgreSQL's headers and that the extension calls, by the names that pgrx calls them. A List is as
 * in PostgreSQL 13 and later: elements in one array. */
#include <stddef.h>

typedef unsigned int Oid;

typedef union {
    void *pointer;
    int integer;
    Oid oid;
} Cell;

typedef struct {
    int tag;
    int length;
    int capacity;
    Cell *cells;
} List;

int list_length__pgrx_cshim(const List *list) { return list == NULL ? 0 : list->length; }

void *list_nth__pgrx_cshim(const List *list, int index) { return list->cells[index].pointer; }

Oid list_nth_oid__pgrx_cshim(const List *list, int index) { return list->cells[index].oid; }
