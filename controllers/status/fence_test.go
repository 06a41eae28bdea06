package status

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is a Lease in memory whose updates can fail.
type lease struct {
	resourcelock.Interface
	err error
}

func (*lease) Identity() string { return "me" }
func (*lease) Describe() string { return "portico-system/portico-leader" }
func (l *lease) Create(context.Context, resourcelock.LeaderElectionRecord) error {
	return l.err
}
func (l *lease) Update(context.Context, resourcelock.LeaderElectionRecord) error {
	return l.err
}

func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		f := &fence{Interface: l, duration: 15 * time.Second}
		ours, nobodys := resourcelock.LeaderElectionRecord{HolderIdentity: "me"}, resourcelock.LeaderElectionRecord{}
		holds := func(when string, want bool) {
			t.Helper()
			if f.holds() != want {
				t.Errorf("%s: holds is %v", when, !want)
			}
		}
		holds("before the first election", false)
		_ = f.Create(t.Context(), ours)
		holds("elected", true)
		time.Sleep(10 * time.Second)
		_ = f.Update(t.Context(), ours)
		time.Sleep(10 * time.Second)
		holds("renewed", true)
		l.err = errors.New("no apiserver")
		_ = f.Update(t.Context(), ours)
		l.err = nil
		if err := f.Update(t.Context(), nobodys); err != nil {
			t.Errorf("releasing what is ours: %v", err)
		}
		time.Sleep(5 * time.Second)
		holds("15 s after the last renewal", false)
		if err := f.Update(t.Context(), nobodys); !errors.Is(err, errNotOurs) {
			t.Errorf("releasing what may be another's: %v", err)
		}
	})
}

// TestLeaseGone: who lost the chart's Lease, and may not make one, is told which
// one and who brings it back.
func TestLeaseGone(t *testing.T) {
	gone := apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, "portico-leader", errors.New("no right"))
	f := &fence{Interface: &lease{err: gone}, duration: 15 * time.Second}
	err := f.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"})
	if !errors.Is(err, error(gone)) || !strings.Contains(err.Error(), "portico-system/portico-leader") || !strings.Contains(err.Error(), "helm upgrade") {
		t.Error(err)
	}
	if f.holds() {
		t.Error("holds a Lease that could not be made")
	}
}

// TestTermEndsWithTheLease: a leader that cannot renew stops writing no later
// than its Lease ends, and the elector is told to begin anew.
func TestTermEndsWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fence{Interface: &lease{}, duration: 15 * time.Second}
		_ = f.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"})
		started := time.Now()
		e := &election{fence: f, log: logr.Discard(), run: func(ctx context.Context, holds func() bool) {
			if !holds() {
				t.Error("no term")
			}
			<-ctx.Done()
		}}
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		e.lead(ctx, giveUp)
		if took := time.Since(started); took != f.duration || ctx.Err() == nil {
			t.Errorf("the term took %v, and the elector was told: %v", took, ctx.Err())
		}
	})
}
