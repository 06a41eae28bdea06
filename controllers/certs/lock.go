package certs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// errLockLost is why a context of Hold ends before it is released.
var errLockLost = errors.New("the lock may be another's by now")

// goodbye is how long giving up a lock may take.
const goodbye = 5 * time.Second

// Hold waits for the Lease of a name. It is renewed until release is called; a
// process that dies leaves it to run out. The context ends when two thirds of
// its time have passed since the last renewal, before anybody may take it.
//
// Whether a Lease has run out is decided by how long it was seen unchanged, never
// by the times in it: clocks of machines differ.
func (s *Storage) Hold(ctx context.Context, name string) (context.Context, func(), error) {
	l := &lock{storage: s, name: objectName(kindLock, name), identity: s.identity + "_" + string(uuid.NewUUID())}
	for {
		asked := time.Now()
		ok, err := l.take(ctx)
		switch {
		case ok:
			held, release := l.keep(ctx, asked)
			return held, release, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsNotFound(err):
			return nil, nil, fmt.Errorf("taking the lock %s: %w", l.name, err)
		case err != nil:
			s.log.V(1).Info("a lock cannot be taken, will try again", "lease", l.name, "error", err.Error())
		}
		if !pause(ctx, s.duration/30+rand.N(s.duration/30)) {
			return nil, nil, ctx.Err()
		}
	}
}

// lock is one attempt to hold a Lease. Owned by one goroutine at a time.
type lock struct {
	storage  *Storage
	name     string
	identity string // no other attempt has it, so a process excludes itself too
	lease    *coordinationv1.Lease
	seen     string // the resourceVersion that another's Lease had
	since    time.Time
}

// take tries once. It reports false without an error if another holds it.
func (l *lock) take(ctx context.Context) (bool, error) {
	lease, err := l.storage.leases.Get(ctx, l.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		lease, err = l.storage.leases.Create(ctx, l.claim(nil), metav1.CreateOptions{})
	case err != nil:
		return false, err
	case !l.runOut(lease):
		return false, nil
	default:
		lease, err = l.storage.leases.Update(ctx, l.claim(lease), metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil // given up just now
		}
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return false, nil // another was faster
	}
	l.lease = lease
	return err == nil, err
}

// runOut reports whether another's Lease was seen unchanged for all its time.
func (l *lock) runOut(lease *coordinationv1.Lease) bool {
	if l.seen != lease.ResourceVersion {
		l.seen, l.since = lease.ResourceVersion, time.Now()
	}
	span := l.storage.duration
	if s := lease.Spec.LeaseDurationSeconds; s != nil {
		span = max(span, time.Duration(*s)*time.Second)
	}
	return time.Since(l.since) > span
}

// claim is the Lease with us as its holder; was may be nil.
func (l *lock) claim(was *coordinationv1.Lease) *coordinationv1.Lease {
	now, seconds := metav1.NowMicro(), int32(l.storage.duration/time.Second)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: l.name, Labels: map[string]string{kindLabel: kindLock}}}
	if was != nil {
		lease = was.DeepCopy()
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &l.identity, &seconds
	lease.Spec.AcquireTime, lease.Spec.RenewTime = &now, &now
	return lease
}

// keep renews a Lease that was asked for at the given time.
func (l *lock) keep(ctx context.Context, asked time.Time) (held context.Context, release func()) {
	held, cancel := context.WithCancelCause(ctx)
	sure := l.storage.duration * 2 / 3
	end := time.AfterFunc(time.Until(asked.Add(sure)), func() { cancel(errLockLost) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(held, l.storage.duration/6) {
			asked := time.Now()
			switch err := l.renew(held); {
			case err == nil:
				end.Reset(time.Until(asked.Add(sure)))
			case apierrors.IsConflict(err), apierrors.IsNotFound(err):
				cancel(errLockLost)
			}
		}
	}()
	return held, func() {
		cancel(context.Canceled)
		end.Stop()
		<-done
		l.giveUp(ctx)
	}
}

func (l *lock) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.storage.duration/3)
	defer cancel()
	next := l.lease.DeepCopy()
	now := metav1.NowMicro()
	next.Spec.RenewTime = &now
	lease, err := l.storage.leases.Update(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		// The answer to our own last renewal may have been lost.
		is, e := l.storage.leases.Get(ctx, l.name, metav1.GetOptions{})
		if e != nil || is.UID != l.lease.UID || is.Spec.HolderIdentity == nil || *is.Spec.HolderIdentity != l.identity {
			return errors.Join(err, e)
		}
		l.lease = is
		next.ResourceVersion = is.ResourceVersion
		lease, err = l.storage.leases.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err == nil {
		l.lease = lease
	}
	return err
}

// giveUp deletes the Lease exactly as we last wrote it. A Lease that stays
// because this fails runs out.
func (l *lock) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	err := l.storage.leases.Delete(ctx, l.name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &l.lease.UID, ResourceVersion: &l.lease.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		l.storage.log.V(1).Info("a lock was not given up and has to run out", "lease", l.name, "error", err.Error())
	}
}

// Lock is certmagic's way to Hold.
func (s *Storage) Lock(ctx context.Context, name string) error {
	_, release, err := s.Hold(ctx, name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks[name] = release
	return nil
}

// Unlock gives up what Lock has taken.
func (s *Storage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	release, ok := s.locks[name]
	delete(s.locks, name)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("%s is not locked", name)
	}
	release()
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
