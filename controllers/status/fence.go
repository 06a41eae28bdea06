package status

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A fence is the lock of the Lease that knows until when the Lease is ours for
// sure: nobody takes it before its duration has passed since the last renewal.
// The elector asks later: a process that was stopped and goes on would write
// what it knew then, and believe that it leads for as long as it tries to renew.
// Safe for concurrent use.
type fence struct {
	resourcelock.Interface
	duration time.Duration // const; of the Lease

	mu    sync.Mutex // protects the following
	until time.Time
}

// Create makes the Lease, ours if there is no error. Where the Lease comes with
// the chart there is no right to do so, and the error says who brings it back.
func (f *fence) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	asked := time.Now()
	err := f.Interface.Create(ctx, record)
	if apierrors.IsForbidden(err) {
		err = fmt.Errorf("the Lease %s is missing; install again what made it (helm upgrade, or kubectl apply -k config/install), or allow to create Leases: %w", f.Describe(), err)
	}
	f.written(asked, record, err)
	return err
}

// errNotOurs keeps the elector from releasing a Lease that may be another's by
// now: it reads the Lease before, but asks its memory whose it is.
var errNotOurs = errors.New("the Lease ran out, so it is not released")

// Update takes, renews or releases the Lease.
func (f *fence) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity != f.Identity() && !f.holds() {
		return errNotOurs
	}
	asked := time.Now()
	err := f.Interface.Update(ctx, record)
	f.written(asked, record, err)
	return err
}

func (f *fence) written(asked time.Time, record resourcelock.LeaderElectionRecord, err error) {
	if err != nil || record.HolderIdentity != f.Identity() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = asked.Add(f.duration)
}

func (f *fence) left() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Until(f.until)
}

// holds reports whether the Lease is ours for sure.
func (f *fence) holds() bool { return f.left() > 0 }

// runsOut waits until the Lease is not ours for sure any more, and returns
// false if ctx ends before.
func (f *fence) runsOut(ctx context.Context) bool {
	for {
		left := f.left()
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return false
		}
	}
}
