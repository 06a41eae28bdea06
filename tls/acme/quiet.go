package acme

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quiet returns a log for certmagic: what it tells of its work at level info, such
// as accounts that it looks up and locks that it waits for, is for level debug. Our
// own log says what came of it.
func quiet(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return lowered{core} }))
}

// lowered is a log core that has no level info.
type lowered struct{ zapcore.Core }

func (l lowered) With(fields []zapcore.Field) zapcore.Core { return lowered{l.Core.With(fields)} }

func (l lowered) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level == zapcore.InfoLevel {
		e.Level = zapcore.DebugLevel
	}
	if !l.Core.Enabled(e.Level) {
		return ce
	}
	return l.Core.Check(e, ce)
}
