package ingress

import (
	"context"
	"fmt"
	"io"
	"sync"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Watches remembers why lists and watches fail, so that readiness can say it:
// an informer does not. The zero value is good. Safe for concurrent use.
type Watches struct {
	mu   sync.Mutex        // protects the following
	last map[string]string // the last error, by the object's type
}

// failed is a watch error handler of informers.
func (w *Watches) failed(ctx context.Context, r *toolscache.Reflector, err error) {
	toolscache.DefaultWatchErrorHandler(ctx, r, err)
	if err != io.EOF { // ended as it should
		w.note(r.TypeDescription(), err)
	}
}

func (w *Watches) note(objectType string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = make(map[string]string)
	}
	w.last[objectType] = err.Error()
}

// why returns the last error of an object's list or watch; empty: none.
func (w *Watches) why(object client.Object) string {
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[fmt.Sprintf("%T", object)]
}
