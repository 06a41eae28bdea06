package node

import "sync"

// An event changes the picture of what is known. It was translated before, by
// the goroutine of its watch.
type event func(*picture)

// inbox holds events, in their order, until the owner takes them.
type inbox struct {
	arrived func() // called for every event
	// ready has one value while there is something to take.
	ready chan struct{}

	mu     sync.Mutex // protects the following
	events []event
}

func newInbox(arrived func()) *inbox {
	return &inbox{arrived: arrived, ready: make(chan struct{}, 1)}
}

func (i *inbox) put(e event) {
	i.mu.Lock()
	i.events = append(i.events, e)
	i.mu.Unlock()
	i.arrived()
	select {
	case i.ready <- struct{}{}:
	default:
	}
}

// take returns everything that has arrived, in order.
func (i *inbox) take() []event {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := i.events
	i.events = nil
	return all
}
