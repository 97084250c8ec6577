//! `environ["ringway.aborted"]`: whether anybody still wants the answer.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::conversation::Conversation;

/// Set when the request was given up: its client or web server has left, or `request_timeout` has passed. The reading
/// side of a `threading.Event`.
#[pyclass(frozen, module = "ringway", name = "Aborted")]
pub(super) struct Aborted {
    conversation: Arc<Conversation>,
}

impl Aborted {
    pub(super) fn new(conversation: Arc<Conversation>) -> Aborted {
        Aborted { conversation }
    }
}

#[pymethods]
impl Aborted {
    fn is_set(&self) -> bool {
        self.conversation.is_aborted()
    }

    fn __bool__(&self) -> bool {
        self.is_set()
    }

    /// Waits until the request is over, `timeout` seconds at most. Whether it was given up: False also where its
    /// answer was taken whole.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout = match timeout {
            Some(seconds) if seconds.is_nan() => {
                return Err(PyValueError::new_err("the timeout is not a number"));
            }
            // More than a Duration holds is for ever.
            Some(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).ok(),
            None => None,
        };
        Ok(py.detach(|| self.conversation.wait_for_end(timeout)))
    }
}
