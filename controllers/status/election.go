package status

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// Lease is how replicas elect the one that writes. The zero Lease elects
// nobody: this replica writes.
type Lease struct {
	Namespace string
	Name      string
	// Identity names this replica; empty: the host's name and a random part.
	Identity string
	// Duration is how long after its last renewal another replica takes
	// over; 0: 15 s. It is renewed every seventh of it, and given up after
	// two thirds without success.
	Duration time.Duration
}

// An election runs terms: the time between winning the Lease and losing it.
// It is not the manager's own election, because a manager that loses its Lease
// ends: a replica that cannot reach the apiserver must go on serving, and take
// part again when the apiserver is back.
type election struct {
	// const after newElection
	lease Lease
	fence *fence // the Lease; nil: always elected
	run   term
	log   logr.Logger

	running sync.Mutex // held for the time of a term, so that two never overlap
}

// A term is what is run while elected, until its context ends. Before every
// write it asks holds, since a context ends a moment after its time.
type term func(ctx context.Context, holds func() bool)

func newElection(cfg *rest.Config, lease Lease, run term, log logr.Logger) (*election, error) {
	e := &election{lease: lease, run: run, log: log}
	if lease.Name == "" {
		return e, nil
	}
	if lease.Namespace == "" {
		return nil, fmt.Errorf("the Lease %q lacks a namespace", lease.Name)
	}
	e.lease.Duration = cmp.Or(lease.Duration, 15*time.Second)
	if e.lease.Identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		e.lease.Identity = host + "_" + string(uuid.NewUUID())
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = e.renewDeadline() / 2 // one stuck request must not lose the Lease
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client for the Lease: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, e.lease.Namespace, e.lease.Name,
		clients.CoreV1(), clients.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: e.lease.Identity})
	if err != nil {
		return nil, err
	}
	e.fence = &fence{Interface: lock, duration: e.lease.Duration}
	return e, nil
}

func (e *election) renewDeadline() time.Duration { return e.lease.Duration * 2 / 3 }

// NeedLeaderElection tells controller-runtime that every replica takes part.
func (*election) NeedLeaderElection() bool { return false }

// Start takes part in elections until ctx ends.
func (e *election) Start(ctx context.Context) error {
	if e.fence == nil {
		e.run(ctx, func() bool { return true })
		return nil
	}
	ctx = klog.NewContext(ctx, e.log)
	for ctx.Err() == nil {
		if err := e.takePart(ctx); err != nil {
			return err
		}
	}
	e.running.Lock() // the last term has ended
	defer e.running.Unlock()
	return nil
}

// takePart returns when the Lease was ours and is no more.
func (e *election) takePart(ctx context.Context) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            e.fence,
		Name:            e.lease.Name,
		LeaseDuration:   e.lease.Duration,
		RenewDeadline:   e.renewDeadline(),
		RetryPeriod:     e.lease.Duration / 7,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { e.lead(ctx, giveUp) },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	return nil
}

// lead is one term. It is called in a goroutine of the elector, which giveUp
// ends: when the Lease runs out unnoticed, the next term begins with an
// election.
func (e *election) lead(ctx context.Context, giveUp context.CancelFunc) {
	e.running.Lock()
	defer e.running.Unlock()
	if ctx.Err() != nil {
		return
	}
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if e.fence.runsOut(ctx) {
			giveUp()
			end()
		}
	})
	e.log.Info("elected to write status and Events", "identity", e.lease.Identity)
	e.run(ctx, e.fence.holds)
	e.log.Info("no longer elected to write status and Events", "identity", e.lease.Identity)
	end()
	watching.Wait()
}
