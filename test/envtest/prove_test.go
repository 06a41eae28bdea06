package envtest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/prove"
)

// proof is a run of prove in this cluster, whose requests go to a handler.
func (c *cluster) proof(out *strings.Builder, handler http.HandlerFunc) prove.Options {
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	c.t.Cleanup(server.Close)
	return prove.Options{
		Client: c.Client, Namespace: c.namespace, Name: "proof", IngressClass: c.class, Address: server.Listener.Addr().String(),
		Image: "portico.test/portico:1", Rollouts: 2, Connections: 1, Timeout: 20 * time.Second, Progress: out,
	}
}

// play says of a Deployment that all its pods are new and ready, as the
// controllers do that do not run here. It counts the generations that it sees.
func (c *cluster) play(ctx context.Context, generations *atomic.Int64) {
	for ctx.Err() == nil {
		var d appsv1.Deployment
		if err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: "proof"}, &d); err == nil && d.Status.ObservedGeneration < d.Generation {
			n := *d.Spec.Replicas
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
			if c.Status().Update(ctx, &d) == nil {
				generations.Add(1)
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// gone fails unless everything that was made is deleted.
func (c *cluster) gone() {
	c.t.Helper()
	for _, list := range []client.ObjectList{new(appsv1.DeploymentList), new(corev1.ServiceList), new(networkingv1.IngressList)} {
		if err := c.List(c.t.Context(), list, client.InNamespace(c.namespace)); err != nil {
			c.t.Fatal(err)
		}
		switch l := list.(type) {
		case *appsv1.DeploymentList:
			for _, d := range l.Items {
				if d.DeletionTimestamp == nil {
					c.t.Error("the Deployment is left")
				}
			}
		case *corev1.ServiceList:
			if len(l.Items) > 0 {
				c.t.Error("the Service is left")
			}
		case *networkingv1.IngressList:
			if len(l.Items) > 0 {
				c.t.Error("the Ingress is left")
			}
		}
	}
}

func TestProve(t *testing.T) {
	c := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var generations, posts atomic.Int64
	go c.play(ctx, &generations)
	var out strings.Builder
	opts := c.proof(&out, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "proof.portico.test" {
			t.Errorf("host %s", r.Host)
		}
		if r.Method == "POST" && posts.Add(1) == 3 {
			w.WriteHeader(http.StatusBadGateway) // this one is lost
			return
		}
		w.Header().Set("Portico-Prove-Pod", "a")
	})
	result, err := prove.Run(ctx, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if generations.Load() != 3 || result.Sent == 0 || result.Answered != result.Sent-result.Lost() {
		t.Errorf("%d generations, %v", generations.Load(), result)
	}
	if want := min(1, int(posts.Load())/3); result.Lost() != want {
		t.Errorf("%d lost, want %d", result.Lost(), want)
	}
	if !strings.Contains(out.String(), "rolling update 2 of 2 took ") {
		t.Error(out.String())
	}
	c.gone()
}

// TestProveGivesUp: an application that never gets ready, and an interrupt,
// leave nothing behind.
func TestProveGivesUp(t *testing.T) {
	c := newCluster(t)
	var out strings.Builder
	opts := c.proof(&out, nil)
	opts.Timeout = time.Second
	_, err := prove.Run(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "the application does not become ready: of 0 pods") {
		t.Errorf("%v", err)
	}
	c.gone()

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: "proof2"}, new(networkingv1.Ingress)) != nil && ctx.Err() == nil {
		}
	}()
	opts.Name, opts.Timeout = "proof2", time.Minute
	if _, err := prove.Run(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	c.gone()
}

// TestProveBackend: a pod that is told to end serves on for a while.
func TestProveBackend(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- prove.ServeBackend(ctx, ln, "a") }()
	get := func() error {
		resp, err := http.Post("http://"+ln.Addr().String()+"/x", "text/plain", strings.NewReader("hello"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Portico-Prove-Pod") != "a" {
			t.Errorf("%s, %v", resp.Status, resp.Header)
		}
		return nil
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := get(); err != nil {
		t.Errorf("after it was told to end: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if get() == nil {
		t.Error("it serves for ever")
	}
}
