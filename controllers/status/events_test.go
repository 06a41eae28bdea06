package status

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/portico-ingress/portico/router/diag"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func problem(name string) diag.Problem {
	return diag.Problem{
		Object:     diag.Ref{Kind: "Ingress", Namespace: "shop", Name: name, UID: "uid-" + name},
		Generation: 1, Field: "spec.rules[0]", Reason: "InvalidHost", Message: "no host", Remedy: "Write one",
	}
}

// One Event for each generation, reason and field; the text does not matter.
func TestEventName(t *testing.T) {
	p := problem("web")
	name := eventName(p)
	same := p
	same.Message, same.Remedy = "in other words", ""
	if got := eventName(same); got != name {
		t.Errorf("another text gives another name: %s and %s", got, name)
	}
	for what, change := range map[string]func(*diag.Problem){
		"uid":        func(p *diag.Problem) { p.Object.UID = "another" },
		"namespace":  func(p *diag.Problem) { p.Object.Namespace = "another" },
		"generation": func(p *diag.Problem) { p.Generation++ },
		"reason":     func(p *diag.Problem) { p.Reason = "Another" },
		"field":      func(p *diag.Problem) { p.Field = "spec.rules[1]" },
	} {
		other := p
		change(&other)
		if eventName(other) == name {
			t.Errorf("another %s gives the same name", what)
		}
	}
	for _, long := range []string{strings.Repeat("a", 253), strings.Repeat("a.", 126), strings.Repeat("a-", 126) + "b"} {
		got := eventName(problem(long))
		if faults := validation.IsDNS1123Subdomain(got); len(faults) > 0 {
			t.Errorf("name %q: %v", got, faults)
		}
	}
}

func TestEventMessageIsBounded(t *testing.T) {
	p := problem("web")
	if got, want := p.Note(), "spec.rules[0]: no host. Write one"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, filler := range []string{"x", "é", "…", "𝄞"} {
		p.Message = strings.Repeat(filler, 2000)
		got := p.Note()
		if len(got) > diag.MaxNote || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") || len(got) < diag.MaxNote-10 {
			t.Errorf("%q: %d bytes, valid %v, ends in %q", filler, len(got), utf8.ValidString(got), got[len(got)-10:])
		}
	}
}

// list is a list of problems that a test changes.
type list struct {
	mu      sync.Mutex // protects the following
	now     []diag.Problem
	changed chan struct{}
}

func (l *list) Problems() []diag.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *list) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *list) set(ps ...diag.Problem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = ps
	close(l.changed)
	l.changed = make(chan struct{})
}

// Whoever starts after another finds its Events and writes only what is new; a
// refusal of one stops no other.
func TestEventsAreWrittenOnce(t *testing.T) {
	var mu sync.Mutex
	created := map[string]int{}
	told := make(chan string, 10)
	c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			event := obj.(*corev1.Event)
			if event.InvolvedObject.Name == "forbidden" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, event.Name, errors.New("no"))
			}
			err := c.Create(ctx, obj, opts...)
			if err == nil {
				mu.Lock()
				created[event.InvolvedObject.Name]++
				mu.Unlock()
			}
			told <- event.InvolvedObject.Name
			return err
		},
	})
	problems := &list{changed: make(chan struct{})}
	run := func(want ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			newEvents(c, Options{Problems: problems, Log: logr.Discard()}, func() bool { return true }).run(ctx)
		}()
		for _, name := range want {
			if got := <-told; got != name {
				t.Errorf("an Event about %s, want %s", got, name)
			}
		}
		cancel()
		<-done
	}
	problems.set(problem("a"), problem("forbidden"), problem("b"))
	run("a", "b")
	problems.set(problem("a"), problem("b"), problem("c"))
	run("a", "b", "c")
	for name, n := range created {
		if n != 1 {
			t.Errorf("%d Events about %s", n, name)
		}
	}
	if len(created) != 3 {
		t.Errorf("Events about %v", created)
	}
}

// TestPassingProblems: of what is mended at once nobody is told.
func TestPassingProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			Create: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, obj.(*corev1.Event).InvolvedObject.Name)
				return nil
			},
		})
		problems := &list{changed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			newEvents(c, Options{Problems: problems, Log: logr.Discard()}, func() bool { return true }).run(ctx)
		}()
		problems.set(problem("lasting"), problem("passing"))
		time.Sleep(settle / 2)
		problems.set(problem("lasting"))
		time.Sleep(time.Minute)
		cancel()
		<-done
		if !slices.Equal(told, []string{"lasting"}) {
			t.Errorf("Events about %v", told)
		}
	})
}
