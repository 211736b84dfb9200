// Takes the place of the uploads in tests of the rest of the page.

export async function openFile() {
  throw new Error("no files in this test");
}
