package upstream

import (
	"context"
	"errors"
	"testing"
)

// told is a request that tells when it is interrupted.
type told chan struct{}

func (t told) interrupt() { close(t) }

func TestLifetime(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	var l Lifetime
	early := told(make(chan struct{}))
	k := tie(&l, early)
	if l.Err() != nil || !k.undo() {
		t.Error("a lifetime that has not ended")
	}
	under := told(make(chan struct{}))
	k = tie(&l, under)
	child, cancel := context.WithCancel(&l)
	defer cancel()
	l.End(first)
	l.End(second)
	<-under
	<-l.Done()
	<-child.Done()
	if l.Err() != first || context.Cause(&l) != first || k.undo() {
		t.Errorf("it ended with %v", l.Err())
	}
	late := told(make(chan struct{}))
	if k := tie(&l, late); k.undo() {
		t.Error("a request after the end was left in peace")
	}
	<-late
	select {
	case <-early:
		t.Error("a request that was over was interrupted")
	default:
	}
}
