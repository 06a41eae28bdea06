package acme

import (
	"cmp"
	"slices"
	"time"
)

// planned is what to do for one certificate.
type planned struct {
	id     string
	wanted Wanted
	action Action
	tried  time.Time // last, without success; zero: never
	staged bool      // a test directory has to issue it before
}

// before orders what is due: what has been due for longest goes first, then what
// was not tried for longest.
func (p planned) before(o planned) int {
	return cmp.Or(p.action.At.Compare(o.action.At), p.tried.Compare(o.tried), cmp.Compare(p.id, o.id))
}

// lane is what waits for each other: orders, and questions, at one issuer. A test
// directory that is slow holds up nothing that does not need it.
type lane struct {
	issuer string
	kind   Kind
	staged bool
}

func (p planned) lane() lane {
	return lane{p.wanted.Issuer.Name, p.action.Kind, p.staged && p.action.Kind == PlaceOrder}
}

// lanes are what is due and what is in flight, by lane, in the order in which they
// have something due.
type lanes struct {
	order  []lane
	owners map[lane]map[string]*queue
}

// queue is what one owner has in a lane.
type queue struct {
	inFlight int
	due      []planned // what is due for longest comes first
}

// newLanes takes what is due, sorted, and what is in flight.
func newLanes(due []planned, busy map[string]planned) *lanes {
	l := &lanes{owners: make(map[lane]map[string]*queue)}
	for _, p := range due {
		if l.owners[p.lane()] == nil {
			l.order = append(l.order, p.lane())
		}
		q := l.queue(p)
		q.due = append(q.due, p)
	}
	for _, p := range busy {
		l.queue(p).inFlight++
	}
	return l
}

func (l *lanes) queue(p planned) *queue {
	owners := l.owners[p.lane()]
	if owners == nil {
		owners = make(map[string]*queue)
		l.owners[p.lane()] = owners
	}
	q := owners[p.wanted.Owner]
	if q == nil {
		q = new(queue)
		owners[p.wanted.Owner] = q
	}
	return q
}

// begin begins what there is room for in each lane. Owners take turns: those with
// the fewest in flight, and among them who waits for longest, so that one with
// thousands that fail delays nobody else. begin reports false for what cannot
// begin now.
func (l *lanes) begin(room int, begin func(planned) bool) {
	for _, lane := range l.order {
		queues, free := make([]*queue, 0, len(l.owners[lane])), room
		for _, q := range l.owners[lane] {
			free -= q.inFlight
			queues = append(queues, q)
		}
		for turn := 0; free > 0 && len(queues) > 0; turn++ {
			queues = slices.DeleteFunc(queues, func(q *queue) bool { return len(q.due) == 0 })
			slices.SortFunc(queues, func(a, b *queue) int { return a.due[0].before(b.due[0]) })
			for _, q := range queues {
				if q.inFlight == turn && free > 0 && q.next(begin) {
					free--
				}
			}
		}
	}
}

// next begins the first that can begin, and drops those before it: what cannot
// begin now cannot in this round.
func (q *queue) next(begin func(planned) bool) bool {
	for len(q.due) > 0 {
		p := q.due[0]
		q.due = q.due[1:]
		if begin(p) {
			q.inFlight++
			return true
		}
	}
	return false
}
