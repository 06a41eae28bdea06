//go:build e2e && linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// A probe sends one request after the other through the load balancer, each
// over a connection of its own.
type probe struct {
	end context.CancelFunc
	wg  sync.WaitGroup

	mu       sync.Mutex // protects the following
	answered []time.Time
	failed   []time.Time
	last     error
}

func (e *edge) probe(t *testing.T) *probe { return e.probeBy(t, e.dialBalancer) }

func (e *edge) probeBy(t *testing.T, dial dialer) *probe {
	ctx, end := context.WithCancel(t.Context())
	p := &probe{end: end}
	p.wg.Go(func() {
		for ctx.Err() == nil {
			_, err := e.askBy(host, dial)
			p.note(err)
		}
	})
	t.Cleanup(func() { end(); p.wg.Wait() })
	return p
}

func (p *probe) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.answered = append(p.answered, time.Now())
		return
	}
	p.failed, p.last = append(p.failed, time.Now()), err
}

// answeredSince is an error unless n requests in a row, the last ones, were
// answered after a moment.
func (p *probe) answeredSince(moment time.Time, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failed) > 0 && p.failed[len(p.failed)-1].After(moment) {
		moment = p.failed[len(p.failed)-1]
	}
	if len(p.answered) < n || p.answered[len(p.answered)-n].Before(moment) {
		return fmt.Errorf("fewer than %d requests in a row were answered; the last error is %v", n, p.last)
	}
	return nil
}

// counts ends the probe and returns how its requests ended.
func (p *probe) counts() (answered, failed int, last error) {
	p.end()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answered), len(p.failed), p.last
}

// stop ends the probe and tells of the window in which connections failed.
func (p *probe) stop(since time.Time) string {
	p.end()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failed) == 0 {
		return fmt.Sprintf("%d, none refused", len(p.answered))
	}
	first, last := p.failed[0].Sub(since), p.failed[len(p.failed)-1].Sub(since)
	return fmt.Sprintf("%d, %d refused, from %v to %v after the kill; the last: %v", len(p.answered)+len(p.failed), len(p.failed),
		first.Round(time.Millisecond), last.Round(time.Millisecond), p.last)
}

// posts counts what the backends of an application say that they got.
type posts struct {
	pods typedcorev1.PodInterface // const
	wg   sync.WaitGroup           // of the logs that are read

	mu   sync.Mutex     // protects the following
	seen map[string]int // by body
	err  error
}

// recordPosts follows the logs of an application's pods, of those to come too.
// The function that it returns waits for the end of every pod that was there,
// and returns how often each body was logged.
func (e *edge) recordPosts(t *testing.T, app string) (stop func() map[string]int) {
	t.Helper()
	p := &posts{pods: e.client.CoreV1().Pods("default"), seen: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	changes, err := p.pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		known := map[string]bool{}
		for change := range changes.ResultChan() {
			if pod, ok := change.Object.(*corev1.Pod); ok && pod.Status.Phase == corev1.PodRunning && !known[pod.Name] {
				known[pod.Name] = true
				p.wg.Go(func() { p.read(ctx, pod.Name) })
			}
		}
	}()
	return func() map[string]int {
		changes.Stop()
		<-watching
		p.wg.Wait()
		if p.err != nil {
			t.Error(p.err)
		}
		return p.seen
	}
}

// read counts what one pod logs, to its end.
func (p *posts) read(ctx context.Context, pod string) {
	log, err := p.pods.GetLogs(pod, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		p.fail(pod, err)
		return
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if body, ok := strings.CutPrefix(lines.Text(), "POST "); ok {
			p.mu.Lock()
			p.seen[body]++
			p.mu.Unlock()
		}
	}
	if err := lines.Err(); err != nil {
		p.fail(pod, err)
	}
}

func (p *posts) fail(pod string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = errors.Join(p.err, fmt.Errorf("the log of %s: %w", pod, err))
}
